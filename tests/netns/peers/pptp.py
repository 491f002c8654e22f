"""A PPTP server or client, as far as a translator sees them: control messages, and GRE that is sent back.

    pptp.py server ADDRESS
    pptp.py client ADDRESS SERVER CALL
"""

import socket
import struct
import sys
import threading
import time

REQUEST, REPLY = 7, 8


def message(kind, own, peer):
    body = struct.pack("!HHHHHHHHBB", 32, 1, 0x1A2B, 0x3C4D, kind, 0, own, peer, 1, 0)
    return body.ljust(32, b"\0")


def read(connection):
    data = b""
    while len(data) < 32:
        more = connection.recv(32 - len(data))
        if not more:
            raise EOFError
        data += more
    kind, _, own, peer = struct.unpack("!HHHH", data[8:16])
    return kind, own, peer


def gre(address):
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)
    raw.bind((address, 0))
    return raw


def packet(call, text):
    return struct.pack("!HHHHI", 0x3001, 0x880B, len(text), call, 1) + text


def received(raw):
    """Sender, call and text of the next packet."""
    data, (sender, _) = raw.recvfrom(2000)
    data = data[(data[0] & 15) * 4 :]
    return sender, struct.unpack("!H", data[6:8])[0], data[12:]


def serve(address):
    raw = gre(address)
    calls = {}

    def echo():
        while True:
            sender, call, text = received(raw)
            if (sender, call) in calls:
                raw.sendto(packet(calls[sender, call], text), (sender, 0))

    def control(connection, sender):
        try:
            while True:
                kind, theirs, _ = read(connection)
                if kind == REQUEST:
                    own = 100 + len(calls)
                    calls[sender, own] = theirs
                    connection.sendall(message(REPLY, own, theirs))
        except (EOFError, OSError):
            pass

    threading.Thread(target=echo, daemon=True).start()
    listener = socket.create_server((address, 1723))
    while True:
        connection, (sender, _) = listener.accept()
        threading.Thread(target=control, args=(connection, sender), daemon=True).start()


def call(address, server, own):
    raw = gre(address)
    raw.settimeout(10)
    connection = socket.create_connection((server, 1723), 10, (address, 0))
    connection.sendall(message(REQUEST, own, 0))
    kind, theirs, peer = read(connection)
    assert (kind, peer) == (REPLY, own), (kind, peer)
    # Long enough for another client's call to be there at the same time.
    for turn in range(20):
        text = f"{address} {turn}".encode()
        raw.sendto(packet(theirs, text), (server, 0))
        answer = received(raw)
        assert answer == (server, own, text), answer
        time.sleep(0.05)


if sys.argv[1] == "server":
    serve(sys.argv[2])
else:
    call(sys.argv[2], sys.argv[3], int(sys.argv[4]))
