"""gRPC in Python, whose TLS is a BoringSSL without symbols: texts by their length, and any call."""
import os
import signal
import sys
import time
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


def keep(address, port, cert, go):
    """Calls five times, waits until the file `go` is there, and calls five times more."""
    with open(cert, "rb") as cert:
        credentials = grpc.ssl_channel_credentials(cert.read())
    options = [("grpc.ssl_target_name_override", "server")]
    with grpc.secure_channel(f"{address}:{port}", credentials, options) as channel:
        for when in ["early", "late"]:
            for number in range(5):
                metadata = [("x-always", "the same"), ("x-request", f"{when}-{number}")]
                call = channel.unary_unary(f"/text/{1000 + number}")
                call(text(3000), timeout=10, metadata=metadata)
            print(when, flush=True)
            while not os.path.exists(go):
                time.sleep(0.02)


{"server": serve, "client": ask, "keep": keep}[sys.argv[1]](*sys.argv[2:])
