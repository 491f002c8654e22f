"""An RTSP server or client, as far as a translator sees them: one SETUP, and datagrams both ways afterwards.

    rtsp.py server ADDRESS
    rtsp.py client ADDRESS SERVER PORT
"""

import re
import socket
import sys
import threading
import time


def udp(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    at = socket.socket(family, socket.SOCK_DGRAM)
    at.bind((address, port))
    at.settimeout(10)
    return at


def pair(address, port):
    return udp(address, port), udp(address, port + 1)


def read(connection):
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        more = connection.recv(2000)
        if not more:
            raise EOFError
        data += more
    return data.decode()


def ports(text, which):
    found = re.search(which + r"=(\d+)-(\d+)", text)
    return int(found[1]), int(found[2])


def stream(connection, sender, address, number):
    """Answers every SETUP, then sends what comes to its own ports back to the client's."""
    try:
        while True:
            text = read(connection)
            sequence = re.search(r"CSeq: (\d+)", text)[1]
            answer = f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n"
            if text.startswith("SETUP"):
                theirs = ports(text, "client_port")
                own = pair(address, number)
                answer += (
                    f"Transport: RTP/AVP;unicast;client_port={theirs[0]}-{theirs[1]};"
                    f"server_port={number}-{number + 1};source={address}\r\n"
                )
                connection.sendall((answer + "\r\n").encode())
                for at, port in zip(own, theirs):
                    at.sendto(b"stream", (sender, port))
                    text, by = at.recvfrom(2000)
                    assert (text, by[:2]) == (b"report", (sender, port)), (text, by)
                    at.sendto(b"heard", (sender, port))
            else:
                connection.sendall((answer + "\r\n").encode())
    except (EOFError, OSError):
        pass


def serve(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 554), family=family)
    number = 7000
    while True:
        connection, sender = listener.accept()
        threading.Thread(
            target=stream, args=(connection, sender[0], address, number), daemon=True
        ).start()
        number += 2


def watch(address, server, port):
    own = pair(address, 6000)
    connection = socket.create_connection((server, port), 10, (address, 0))
    host = f"[{server}]" if ":" in server else server

    def ask(line, more=""):
        ask.sequence += 1
        text = f"{line} RTSP/1.0\r\nCSeq: {ask.sequence}\r\n{more}\r\n"
        connection.sendall(text.encode())
        answer = read(connection)
        assert answer.startswith(f"RTSP/1.0 200 OK\r\nCSeq: {ask.sequence}\r\n"), answer
        return answer

    ask.sequence = 0
    ask("OPTIONS *")
    answer = ask(
        f"SETUP rtsp://{host}/film",
        "Transport: RTP/AVP;unicast;client_port=6000-6001\r\n",
    )
    assert ports(answer, "client_port") == (6000, 6001), answer
    source = re.search(r"source=([0-9a-f.:]+)", answer)[1]
    assert source == server, answer
    for at, port in zip(own, ports(answer, "server_port")):
        text, by = at.recvfrom(2000)
        assert (text, by[:2]) == (b"stream", (server, port)), (text, by)
        at.sendto(b"report", (server, port))
        text, by = at.recvfrom(2000)
        assert (text, by[:2]) == (b"heard", (server, port)), (text, by)
    # The connection goes on behind texts that changed their length both ways.
    ask(f"PLAY rtsp://{host}/film")
    ask(f"TEARDOWN rtsp://{host}/film")
    time.sleep(0.1)


if sys.argv[1] == "server":
    serve(sys.argv[2])
else:
    watch(sys.argv[2], sys.argv[3], int(sys.argv[4]))
