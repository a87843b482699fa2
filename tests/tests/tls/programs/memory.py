"""HTTP over asyncio, which does TLS in memory and the sockets by itself."""
import asyncio
import ssl
import sys


def text(length):
    return b"".join(b"%07d." % number for number in range(length // 8 + 1))[:length]


async def message(reader):
    """The first line and the body of a request or an answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    lengths = [line.split(":")[1] for line in head if line.startswith("content-length:")]
    return head[0], await reader.readexactly(int(lengths[0]) if lengths else 0)


def write(writer, first, body):
    head = f"{first}\r\nHost: here\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


async def handle(reader, writer):
    try:
        while True:
            first, _ = await message(reader)
            method, path, _ = first.split(" ")
            body = b"posted" if method == "post" else text(int(path.split("?")[0].split("/")[-1]))
            write(writer, "HTTP/1.1 200 OK", body)
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()


async def serve(address, port, cert, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = await asyncio.start_server(handle, address, int(port), ssl=context)
    print("ready", flush=True)
    await server.serve_forever()


async def ask(address, port, version, tag):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    reader, writer = await asyncio.open_connection(address, int(port), ssl=context)
    for method, path, body in [
        ("GET", "/text/10", b""),
        ("POST", "/post", text(3000)),
        ("GET", "/text/100000", b""),
        ("GET", "/text/1", b""),
    ]:
        write(writer, f"{method} {path}?{tag} HTTP/1.1", body)
        _, answer = await message(reader)
        assert answer == (b"posted" if body else text(int(path.split("/")[-1])))
    writer.close()
    await writer.wait_closed()


asyncio.run({"server": serve, "client": ask}[sys.argv[1]](*sys.argv[2:]))
