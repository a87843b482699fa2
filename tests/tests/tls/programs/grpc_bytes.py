"""gRPC in Python, whose TLS is a BoringSSL without symbols: texts by their length, and any call."""
import signal
import sys
from concurrent import futures

import grpc


def text(length):
    return b"".join(b"%07d." % number for number in range(length // 8 + 1))[:length]


class Texts(grpc.GenericRpcHandler):
    def service(self, details):
        length = int(details.method.split("?")[0].split("/")[-1])
        return grpc.unary_unary_rpc_method_handler(lambda request, context: text(length))


def serve(address, port, cert, key):
    with open(cert, "rb") as cert, open(key, "rb") as key:
        credentials = grpc.ssl_server_credentials([(key.read(), cert.read())])
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Texts()])
    assert server.add_secure_port(f"{address}:{port}", credentials)
    server.start()
    print("ready", flush=True)
    signal.pause()


def ask(address, port, cert, method, length):
    """Any server with HTTP/2 will do: that its answer is none of gRPC's comes too late."""
    with open(cert, "rb") as cert:
        credentials = grpc.ssl_channel_credentials(cert.read())
    options = [("grpc.ssl_target_name_override", "server")]
    with grpc.secure_channel(f"{address}:{port}", credentials, options) as channel:
        try:
            channel.unary_unary(method)(text(int(length)), timeout=10)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNKNOWN, error


{"server": serve, "client": ask}[sys.argv[1]](*sys.argv[2:])
