"""One port for a connection with TLS and one without, in the order asked for."""
import socket
import ssl
import sys


def ask(local, address, port, uri, context):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.bind(("", local))
        connection.connect((address, port))
        if context:
            connection = context.wrap_socket(connection)
        connection.sendall(f"GET {uri} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
        while connection.recv(65536):
            pass
        connection.close()


context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
local, address, *asked = sys.argv[1:]
for port, uri in zip(asked[::2], asked[1::2]):
    ask(int(local), address, int(port), uri, context if port != "80" else None)
