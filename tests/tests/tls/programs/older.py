"""A server of HTTP over TLS and its client, which keeps its first connection.

The client asks what it is told to in a named pipe: `old /path` on that connection, `new /path` on another.
"""

import os
import socket
import ssl
import sys
import threading

PORT = 8443
TIMES = 3000


def serve(connection):
    while request := connection.recv(65536):
        body = (request.split()[1].decode() * TIMES).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def accept(listener, context):
    while True:
        connection, _ = listener.accept()
        connection = context.wrap_socket(connection, server_side=True)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def connect():
    context = ssl._create_unverified_context()
    return context.wrap_socket(socket.create_connection(("127.0.0.1", PORT)))


def get(connection, path):
    connection.sendall(b"GET %s HTTP/1.1\r\nHost: older\r\n\r\n" % path.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, body = answer.split(b"\r\n\r\n", 1)
    while len(body) < int(head.rsplit(b" ", 1)[1]):
        body += connection.recv(65536)
    assert body == (path * TIMES).encode()


def main(key, certificate, pipe):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", PORT))
    threading.Thread(target=accept, args=(listener, context), daemon=True).start()
    old = connect()
    get(old, "/before")
    os.mkfifo(pipe)
    print("ready", flush=True)
    for line in open(pipe):
        which, path = line.split()
        get(old if which == "old" else connect(), path)
        print("got", path, flush=True)


main(*sys.argv[1:])
