"""HTTP over pyOpenSSL, whose OpenSSL is linked into a module of Python."""
import socket
import sys
import threading

from OpenSSL import SSL


def text(length):
    return b"".join(b"%07d." % number for number in range(length // 8 + 1))[:length]


class Stream:
    def __init__(self, context, connection, is_server):
        self.tls = SSL.Connection(context, connection)
        self.tls.set_accept_state() if is_server else self.tls.set_connect_state()
        self.tls.do_handshake()
        self.read = b""

    def take(self, end):
        """Up to where `end` says, once that has come."""
        while (at := end(self.read)) is None:
            self.read += self.tls.recv(65536)
        taken, self.read = self.read[:at], self.read[at:]
        return taken

    def message(self):
        """The first line and the body of a request or an answer."""
        head = self.take(lambda read: read.index(b"\r\n\r\n") + 4 if b"\r\n\r\n" in read else None)
        head = head.decode().lower().split("\r\n")
        lengths = [line.split(":")[1] for line in head if line.startswith("content-length:")]
        length = int(lengths[0]) if lengths else 0
        return head[0], self.take(lambda read: length if len(read) >= length else None)

    def write(self, first, body):
        head = f"{first}\r\nHost: here\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}"
        self.tls.sendall(head.encode() + b"\r\n\r\n" + body)


def handle(context, connection):
    try:
        stream = Stream(context, connection, True)
        while True:
            first, _ = stream.message()
            method, path, _ = first.split(" ")
            body = b"posted" if method == "post" else text(int(path.split("?")[0].split("/")[-1]))
            stream.write("HTTP/1.1 200 OK", body)
    except SSL.Error:
        connection.close()


def serve(address, port, cert, key):
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_file(cert)
    context.use_privatekey_file(key)
    listener = socket.create_server((address, int(port)))
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=handle, args=(context, connection), daemon=True).start()


def ask(address, port, version, tag):
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if version == "1.2":
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
    connection = socket.create_connection((address, int(port)))
    stream = Stream(context, connection, False)
    for method, path, body in [
        ("GET", "/text/10", b""),
        ("POST", "/post", text(3000)),
        ("GET", "/text/100000", b""),
        ("GET", "/text/1", b""),
    ]:
        stream.write(f"{method} {path}?{tag} HTTP/1.1", body)
        _, answer = stream.message()
        assert answer == (b"posted" if body else text(int(path.split("/")[-1])))
    stream.tls.shutdown()
    connection.close()


{"server": serve, "client": ask}[sys.argv[1]](*sys.argv[2:])
