"""HTTP over Python's ssl module on blocking sockets."""
import http.client
import http.server
import ssl
import sys


def text(length):
    return b"".join(b"%07d." % number for number in range(length // 8 + 1))[:length]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(text(int(self.path.split("?")[0].split("/")[-1])))

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"posted")

    def log_message(self, *_):
        pass


def serve(address, port, cert, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = http.server.ThreadingHTTPServer((address, int(port)), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print("ready", flush=True)
    server.serve_forever()


def ask(address, port, version, tag):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    connection = http.client.HTTPSConnection(address, int(port), context=context)
    for method, path, body in [
        ("GET", "/text/10", None),
        ("POST", "/post", text(3000)),
        ("GET", "/text/100000", None),
        ("GET", "/text/1", None),
    ]:
        connection.request(method, f"{path}?{tag}", body, {"Content-Type": "text/plain"})
        answer = connection.getresponse().read()
        assert answer == (b"posted" if body else text(int(path.split("/")[-1])))


{"server": serve, "client": ask}[sys.argv[1]](*sys.argv[2:])
