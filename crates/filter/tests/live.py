"""Sends frames to every kind of device and tells what our programs and what tcpdump take of them.

Runs as root in a network namespace of its own, which goes when it ends. Reads from standard input
{"programs": {NAME: [[code, jt, jf, k], ...]}, "expressions": [...]}; writes
{"frames": {MARK: {"frame", "tags", "way"}},            what was sent
 "seen":    {DEVICE: [MARK, ...]},                      by a socket without a filter
 "ours":    {NAME: {DEVICE: [MARK, ...]}},
 "longest": {NAME: bytes},                              of the packets that our program took
 "tcpdump": {EXPRESSION: {DEVICE: [MARK, ...] or the text with which it refused}}}
"""

import ctypes
import fcntl
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time

# veth0 gets frames from its peer, and forwards them through a bridge to veth2.
DEVICES = ["veth0", "veth2", "tun0", "lo"]
DEADLINE = time.monotonic() + 60
ETH_P_ALL = 3
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33
PACKET_OUTGOING = 4
MARK = re.compile(rb"MARK(\d{4})")


def sh(line):
    subprocess.run(line, shell=True, check=True)


def until(what, condition):
    while not condition():
        if time.monotonic() > DEADLINE:
            sys.exit(f"still waiting: {what}")
        os.sched_yield()


# -- packets; nobody looks at their checksums

def ipv4(protocol, payload, dst=(10, 0, 0, 2), fragment=0):
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0)
    return 0x0800, head + bytes((10, 0, 0, 1)) + bytes(dst) + payload


def ipv6(protocol, payload):
    a, b = (socket.inet_pton(socket.AF_INET6, x) for x in ("fd00::1", "fd00::2"))
    return 0x86DD, struct.pack("!IHBB", 0x60000000, len(payload), protocol, 64) + a + b + payload


def tcp(sport, dport, flags):
    return struct.pack("!HHIIBBHHH", sport, dport, 1, 1, 0x50, flags, 1000, 0, 0) + b"MARK0000"


def udp(sport, dport, size=8):
    return struct.pack("!HHHH", sport, dport, 8 + size, 0) + b"MARK0000".ljust(size, b".")


def icmp(kind):
    return struct.pack("!BBHI", kind, 0, 0, 1) + b"MARK0000"


SCTP = struct.pack("!HHII", 53, 5000, 1, 0) + b"MARK0000"
ARP = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + bytes(20) + b"MARK0000"
FRAMES = {
    "tcp syn": ipv4(6, tcp(4000, 80, 2)),
    "tcp ssh": ipv4(6, tcp(22, 4000, 16)),
    "tcp elsewhere": ipv4(6, tcp(443, 4000, 4), dst=(192, 168, 0, 2)),
    "udp dns": ipv4(17, udp(4000, 53)),
    "udp 56": ipv4(17, udp(56, 4000)),
    "udp long": ipv4(17, udp(4000, 4001, 700)),
    "udp first fragment": ipv4(17, udp(4000, 53), fragment=0x2000),
    "udp last fragment": ipv4(17, b"....MARK0000", fragment=3),
    "icmp": ipv4(1, icmp(8)),
    "igmp": ipv4(2, icmp(0x11), dst=(224, 0, 0, 1)),
    "gre": ipv4(47, icmp(0)),
    "sctp": ipv4(132, SCTP),
    "tcp6 syn": ipv6(6, tcp(4000, 80, 2)),
    "udp6 dns": ipv6(17, udp(53, 4000)),
    "icmp6": ipv6(58, icmp(128)),
    "sctp6": ipv6(132, SCTP),
    "arp": (0x0806, ARP),
    "lldp": (0x88CC, b"MARK0000".ljust(40, b".")),
}
TAGS = {
    "none": [],
    "100": [0x81000064],
    "200": [0x810000C8],
    "100 200": [0x88A80064, 0x810000C8],
    "100 7": [0x81000064, 0x81000007],
    "100 7 8": [0x88A80064, 0x81000007, 0x81000008],
    "old 100": [0x91000064],
}
IN_BYTES = ["none", "100", "100 200", "old 100"]
sent = {}


def marked(packet, frame, tags, way):
    mark = f"{len(sent):04}"
    sent[mark] = {"frame": frame, "tags": tags, "way": way}
    return packet.replace(b"MARK0000", f"MARK{mark}".encode())


def ethernet(frame, tags, way):
    kind, packet = FRAMES[frame]
    dst = b"\xff" * 6 if frame == "arp" else b"\2\0\0\0\0\2"
    tag_bytes = b"".join(struct.pack("!I", tag) for tag in TAGS[tags])
    head = dst + b"\2\0\0\0\0\1" + tag_bytes + struct.pack("!H", kind)
    return marked(head + packet, frame, tags, way)


def ends():
    """Where each frame must be seen."""
    forwarded = {("veth2", mark) for mark, frame in sent.items() if frame["way"] == "into veth0"}
    return forwarded | {(frame["way"].split()[-1], mark) for mark, frame in sent.items()}


def warm_up(raw, tun):
    """libpcap judges a handle's first packet itself, and wrongly for `inbound` and `outbound`."""
    packet = ipv4(6, tcp(4000, 80, 2))[1].replace(b"MARK", b"WARM")
    for device in ("veth1", "veth0", "veth2", "lo"):
        raw.sendto(b"\2\0\0\0\0\2\2\0\0\0\0\1\x08\0" + packet, (device, 0))
    os.write(tun, packet)
    raw.sendto(packet, ("tun0", 0x0800))


def send_all(tun):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    warm_up(raw, tun)
    for frame, (kind, packet) in FRAMES.items():
        for tags in TAGS:
            raw.sendto(ethernet(frame, tags, "into veth0"), ("veth1", 0))
        for tags in IN_BYTES:
            raw.sendto(ethernet(frame, tags, "out of veth0"), ("veth0", 0))
            raw.sendto(ethernet(frame, tags, "lo"), ("lo", 0))
        if kind in (0x0800, 0x86DD):
            os.write(tun, marked(packet, frame, "none", "into tun0"))
            raw.sendto(marked(packet, frame, "none", "out of tun0"), ("tun0", kind))


# -- devices

def set_kernel(name, value):
    if os.path.exists(f"/proc/sys/{name}"):
        with open(f"/proc/sys/{name}", "w") as file:
            file.write(str(value))


def make_devices():
    for scope in ("all", "default"):
        set_kernel(f"net/ipv6/conf/{scope}/disable_ipv6", 1)
    sh("ip link add veth0 type veth peer name veth1 && ip link add veth2 type veth peer name veth3")
    # A forwarded frame leaves with the kernel's note of its tag, as one of a VLAN device does.
    sh("ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    sh("ip link set veth0 master br0 && ip link set veth2 master br0")
    for table in ("iptables", "ip6tables"):
        set_kernel(f"net/bridge/bridge-nf-call-{table}", 0)
    for device in ("lo", "veth0", "veth1", "veth2", "veth3", "br0"):
        sh(f"ip link set {device} up")
    tun = os.open("/dev/net/tun", os.O_RDWR)
    tunsetiff, iff_tun, iff_no_pi = 0x400454CA, 0x0001, 0x1000
    fcntl.ioctl(tun, tunsetiff, struct.pack("16sH", b"tun0", iff_tun | iff_no_pi))
    sh("ip link set tun0 up")
    return tun


# -- who listens

def listen(program):
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    if program:
        code = b"".join(struct.pack("HBBI", *line) for line in program)
        buffer = ctypes.create_string_buffer(code)
        fprog = struct.pack("HP", len(program), ctypes.addressof(buffer))
        listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
    listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    listener.setblocking(False)
    # Socket.bind wants a device; all of them is index 0.
    address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(ETH_P_ALL), 0, 0, 0, 0, b"")
    assert ctypes.CDLL(None).bind(listener.fileno(), address, len(address)) == 0
    return listener


def drain(listener):
    """(device, direction, bytes) of all that has arrived."""
    while True:
        try:
            data, (device, _, direction, _, _) = listener.recvfrom(4096)
        except BlockingIOError:
            return
        yield device, direction, data


def by_device(pairs):
    return {device: sorted(mark for d, mark in pairs if d == device) for device in DEVICES}


class Tcpdump:
    def __init__(self, expression, device, path):
        self.path = path
        self.process = subprocess.Popen(
            ["tcpdump", "-n", "-i", device, "-s", "2000", "-B", "2048", "--immediate-mode", "-U",
             "-Z", "root", "-w", path, expression],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def wait_until_it_listens(self):
        self.said = ""
        while "listening on" not in self.said:
            line = self.process.stderr.readline()
            if not line:
                break
            self.said += line
        return self

    def is_idle(self):
        """Blocked in poll (an arriving packet wakes it at once), or gone."""
        if self.process.poll() is not None:
            return True
        with open(f"/proc/{self.process.pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "S"

    def took(self):
        if self.process.poll() is not None:
            return self.said
        self.process.terminate()
        self.process.communicate()
        with open(self.path, "rb") as file:
            return sorted(mark.decode() for mark in MARK.findall(file.read()))


def main():
    request = json.load(sys.stdin)
    expressions = request["expressions"]
    tun = make_devices()
    with tempfile.TemporaryDirectory() as directory:
        dumps = {(expression, device): Tcpdump(expression, device, f"{directory}/{n}-{device}")
                 for n, expression in enumerate(expressions) for device in DEVICES}
        for dump in dumps.values():
            dump.wait_until_it_listens()
        ours = {name: listen(program) for name, program in request["programs"].items()}
        control = listen(None)
        # On one CPU a frame has been given to all sockets before this program goes on.
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        send_all(tun)

        seen = set()

        def all_arrived():
            for device, direction, data in drain(control):
                found = MARK.search(data)
                if found and not (device == "lo" and direction == PACKET_OUTGOING):
                    seen.add((device, found[1].decode()))
            return ends() <= seen

        until("frames to arrive", all_arrived)
        until("tcpdump to read them", lambda: all(dump.is_idle() for dump in dumps.values()))

        taken, longest = {}, {}
        for name, listener in ours.items():
            packets = list(drain(listener))
            longest[name] = max((len(data) for _, _, data in packets), default=0)
            taken[name] = by_device([(device, found[1].decode()) for device, _, data in packets
                                     if (found := MARK.search(data))])
        judged = {expression: {} for expression in expressions}
        for (expression, device), dump in dumps.items():
            judged[expression][device] = dump.took()
    json.dump({"frames": sent, "seen": by_device(seen), "ours": taken, "longest": longest,
               "tcpdump": judged}, sys.stdout)


main()
