"""Many UDP flows through a box under test, every answer checked.

    flows.py answer ADDRESS PORT                       says to everyone which source address it saw
    flows.py ask ADDRESS PORT FLOWS RATE SECONDS [SOURCE…]
                                                       prints one JSON object; the flows take turns with the sources

The questions are numbered, so an answer is counted once; the answer carries the address and port the question
came from, so a flow that changes its outside address or port in mid-life is found.
"""

import itertools
import json
import select
import socket
import struct
import sys
import time

BUFFER = 4 << 20


def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    return s


def answer(address, port):
    s = udp()
    s.bind((address, port))
    while True:
        question, source = s.recvfrom(2048)
        s.sendto(question[:8] + socket.inet_aton(source[0]) + struct.pack("!H", source[1]), source)


class Asker:
    def __init__(self, address, port, flows, sources):
        self.sockets = [udp() for _ in range(flows)]
        for s, source in zip(self.sockets, itertools.cycle(sources)):
            s.bind((source, 0))
        self.poll = select.epoll()
        self.by_fd = {}
        for s in self.sockets:
            s.connect((address, port))
            s.setblocking(False)
            self.poll.register(s, select.EPOLLIN)
            self.by_fd[s.fileno()] = s
        self.sent = self.answered = self.refused = 0
        self.seen = {}  # flow -> the outside (address, port) pairs it was seen with

    def send(self, count):
        for _ in range(count):
            s = self.sockets[self.sent % len(self.sockets)]
            try:
                s.send(struct.pack("!Q", self.sent))
            except OSError:  # an ICMP error about an earlier one
                self.refused += 1
            self.sent += 1

    def collect(self, until):
        while True:
            left = until - time.monotonic()
            ready = self.poll.poll(max(left, 0))
            for fd, _ in ready:
                self.drain(self.by_fd[fd])
            if left <= 0:
                return

    def drain(self, s):
        for _ in range(32):
            try:
                data = s.recv(64)
            except BlockingIOError:
                return
            except OSError:
                self.refused += 1
                continue
            self.answered += 1
            self.seen.setdefault(s, set()).add(data[8:14])


def ask(address, port, flows, rate, seconds, sources):
    asker = Asker(address, port, flows, sources)
    asker.send(flows)  # opens every flow, and resolves neighbours, before anything is counted
    asker.collect(time.monotonic() + 1.0)
    asker.sent = asker.answered = asker.refused = 0
    start = time.monotonic()
    while (now := time.monotonic()) < start + seconds:
        asker.send(int((now - start) * rate) - asker.sent)
        asker.collect(now + 0.001)
    lasted = time.monotonic() - start
    asker.collect(time.monotonic() + 1.0)
    addresses = sorted({socket.inet_ntoa(e[:4]) for pairs in asker.seen.values() for e in pairs})
    print(json.dumps({
        "flows": flows,
        "flows_answered": len(asker.seen),
        "flows_that_changed": sum(len(pairs) > 1 for pairs in asker.seen.values()),
        "outside_endpoints": len({e for pairs in asker.seen.values() for e in pairs}),
        "outside_addresses": addresses,
        "sent": asker.sent,
        "answered": asker.answered,
        "refused": asker.refused,
        "asked_per_second": round(asker.sent / lasted),
        "lost_ratio": round(1 - asker.answered / max(asker.sent, 1), 5),
    }))


if __name__ == "__main__":
    if sys.argv[1] == "answer":
        answer(sys.argv[2], int(sys.argv[3]))
    else:
        ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), float(sys.argv[6]), sys.argv[7:] or [""])
