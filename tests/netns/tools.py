#!/usr/bin/python3
"""What the tests of real programs need and no program offers.

    tools.py rendezvous ADDRESS PORT        tells two peers of each other
    tools.py peer OWN SERVER PORT           meets the other peer by punching a hole; prints where it was met
    tools.py fragments OWN SERVER PORT      sends datagrams in pieces to an echo service, one kind after another; prints
                                            for each whether it was answered
"""

import random
import socket
import sys
import time


def rendezvous(address, port):
    """Two peers hear of each other's endpoint as seen from here."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, port))
    peers = []
    while True:
        _, peer = server.recvfrom(100)
        if peer not in peers:
            peers.append(peer)
        for one, other in [peers[-2:], peers[:-3:-1]] if len(peers) > 1 else []:
            server.sendto(f"{other[0]} {other[1]}".encode(), one)


def peer(own, server):
    """Sends to the other until both have been heard; the other's answers say that they were."""
    here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    here.bind((own, 4500))
    here.settimeout(0.1)
    other, met, end = None, False, time.monotonic() + 8
    while time.monotonic() < end:
        if other is None:
            here.sendto(b"hello", server)
        else:
            here.sendto(b"heard" if met else b"anybody there?", other)
        try:
            data, source = here.recvfrom(100)
        except socket.timeout:
            continue
        except ConnectionRefusedError:
            continue
        if source == server:
            host, port = data.decode().split()
            other = (host, int(port))
        elif source == other:
            if not met:
                print(f"{source[0]}:{source[1]}", flush=True)
                # Long enough for the other to hear of it.
                end = time.monotonic() + 1
            met = True
    sys.exit(0 if met else "nobody was met")


def fragments(own, server):
    """Whole datagrams come back, others do not."""
    from scapy.all import IP, UDP, Raw, fragment

    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    ports = iter(range(42000, 43000))

    def pieces(port, size, length=64, source=own):
        body = Raw(bytes(random.randrange(256) for _ in range(length)))
        whole = IP(src=source, dst=server[0], id=port) / UDP(sport=port, dport=server[1]) / body
        return fragment(whole, fragsize=size)

    def moved(piece, by):
        """A piece whose bytes claim another place."""
        piece = piece.copy()
        piece.frag += by
        return piece

    def flood(port):
        for n in range(2000):
            raw.sendto(bytes(IP(src="10.0.0.5", dst=server[0], id=n, frag=3, flags="MF") / Raw(b"x" * 16)), (server[0], 0))
        return pieces(port, 24)

    kinds = {
        "in order": lambda port: pieces(port, 24),
        "last first": lambda port: pieces(port, 24)[::-1],
        "without the first": lambda port: pieces(port, 24)[1:],
        "shuffled": lambda port: random.sample(p := pieces(port, 16), len(p)),
        "each twice": lambda port: [p for p in pieces(port, 32) for _ in range(2)],
        "of eight bytes": lambda port: pieces(port, 8),
        "large": lambda port: pieces(port, 1400, 8000),
        "without the last": lambda port: pieces(port, 24)[:-1],
        "overlapping": lambda port: [(p := pieces(port, 24))[0], moved(p[1], -1), p[2]],
        "one within another": lambda port: [(p := pieces(port, 32))[0], moved(p[1], -3), p[2]],
        "beyond the end of a datagram": lambda port: [(p := pieces(port, 24))[0], moved(p[-1], 8190 - p[-1].frag)],
        "amid a flood of others": flood,
    }
    for kind, make in kinds.items():
        port = next(ports)
        here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        here.bind((own, port))
        here.settimeout(1)
        sent = make(port)
        for piece in sent:
            raw.sendto(bytes(piece), (server[0], 0))
        try:
            here.recv(10000)
            print(f"{kind}: answered")
        except socket.timeout:
            print(f"{kind}: silence")


def main():
    command, own, *rest = sys.argv[1:]
    if command == "rendezvous":
        rendezvous(own, int(rest[0]))
    server = (rest[0], int(rest[1]))
    {"peer": peer, "fragments": fragments}[command](own, server)


if __name__ == "__main__":
    main()
