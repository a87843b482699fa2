"""curl with BoringSSL, in Python: as a client, or as a process that has it loaded."""
import signal
import sys

from curl_cffi import CurlHttpVersion, CurlOpt, requests

# curl/curl.h: CURL_SSLVERSION_TLSv1_3, CURL_SSLVERSION_MAX_TLSv1_2
VERSIONS = {"1.2": 6 << 16, "1.3": 7}
PROTOCOLS = {"h1": CurlHttpVersion.V1_1, "h2": CurlHttpVersion.V2TLS}


def text(length):
    return b"".join(b"%07d." % number for number in range(length // 8 + 1))[:length]


def load():
    print("ready", flush=True)
    signal.pause()


def ask(address, port, version, tag, protocol):
    session = requests.Session(
        verify=False, http_version=PROTOCOLS[protocol], default_headers=False, timeout=20,
        curl_options={CurlOpt.SSLVERSION: VERSIONS[version]},
    )
    for method, path, body in [
        ("GET", "/text/10", None),
        ("POST", "/post", text(3000)),
        ("GET", "/text/100000", None),
        ("GET", "/text/1", None),
    ]:
        headers = {"Content-Type": "text/plain"} if body else {}
        url = f"https://{address}:{port}{path}?{tag}"
        answer = session.request(method, url, data=body, headers=headers).content
        assert answer == (b"posted" if body else text(int(path.split("/")[-1])))
    session.close()


{"load": load, "client": ask}[sys.argv[1]](*sys.argv[2:])
