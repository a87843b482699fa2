"""Two connections, of TLS 1.2 and 1.3, that go on; and one that was closed before."""
import http.client
import ssl
import sys
import time


def connect(address, port, version, log):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    context.keylog_filename = log
    return http.client.HTTPSConnection(address, int(port), context=context)


def ask(connection):
    connection.request("GET", "/text/10")
    assert len(connection.getresponse().read()) == 10


address, port, closed, kept = sys.argv[1:]
short = connect(address, port, ssl.TLSVersion.TLSv1_3, closed)
ask(short)
short.close()
versions = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
connections = [connect(address, port, version, kept) for version in versions]
while True:
    for connection in connections:
        ask(connection)
    print("ready", flush=True)
    time.sleep(0.2)
