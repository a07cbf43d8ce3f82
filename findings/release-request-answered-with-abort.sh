#!/usr/bin/env bash
# Guess: a sender that gets an A-RELEASE-RQ from the SCP in mid-transfer answers with A-RELEASE-RP, as PS3.8 9.2 (state 8) says,
#   and what is left is not sent.
# Seen: DCMTK's storescu and dcmsend do not look at what arrives between two instances. They send one more, find the
#   A-RELEASE-RQ where its answer should be, and abort the association: exit codes 10 and 62. The SCP has the one more instance,
#   whole and unanswered. pynetdicom's storescu answers with A-RELEASE-RP, raises an error for each file that is left, and
#   ends with 0.
# Matters: an SCP that wants to go down gracefully cannot by A-RELEASE-RQ: to these senders it looks like a failure, and to the
#   operator of pynetdicom's like success. The unanswered instance is stored or not, and has to be sent again.
# Versions: Debian dcmtk 3.6.7-9~deb12u4, pynetdicom 3.0.4.
. "$(dirname "$(readlink -f "$0")")/support.sh"
debian dcmtk 3.6.7
python_packages venv python3 pynetdicom==3.0.4 pydicom==3.0.2
mkdir files
(cd files && ../venv/bin/python ../made_up.py ct1 ct2 ct3 ct4 ct5)

# An SCP that answers two instances, asks for release together with the second answer, and notes what comes then.
cat >scp.py <<'END'
import socket
import struct
import sys

NAMES = {5: "A-RELEASE-RQ", 6: "A-RELEASE-RP", 7: "A-ABORT"}


def read(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def item(kind, value):
    return struct.pack(">BxH", kind, len(value)) + value


def items(data):
    while data:
        kind, length = struct.unpack_from(">BxH", data)
        yield kind, data[4 : 4 + length]
        data = data[4 + length :]


def accept(request):
    answer = request[:68] + item(0x10, b"1.2.840.10008.3.1.1.1")
    for kind, value in items(request[68:]):
        if kind == 0x20:
            syntax = next(syntax for kind, syntax in items(value[4:]) if kind == 0x40)
            answer += item(0x21, bytes((value[0], 0, 0, 0)) + item(0x40, syntax))
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.826.0.1.3680043.10.9999.9") + item(0x55, b"MADEUP")
    answer += item(0x50, user)
    return struct.pack(">BxI", 2, len(answer)) + answer


def element(number, value):
    return struct.pack("<HHI", 0, number, len(value)) + value


def response(context, command):
    values = {}
    while command:
        number, length = struct.unpack_from("<2xHI", command)
        values[number] = command[8 : 8 + length]
        command = command[8 + length :]
    body = element(2, values[2]) + element(0x100, b"\x01\x80") + element(0x120, values[0x110])
    body += element(0x800, b"\x01\x01") + element(0x900, b"\0\0") + element(0x1000, values[0x1000])
    body = element(0, struct.pack("<I", len(body))) + body
    return struct.pack(">BxIIBB", 4, len(body) + 6, len(body) + 2, context, 3) + body


def serve(connection):
    received, command = 0, b""
    while True:
        kind, length = struct.unpack(">BxI", read(connection, 6))
        body = read(connection, length)
        if kind == 1:
            connection.sendall(accept(body))
        elif kind == 4:
            while body:
                length, context, control = struct.unpack_from(">IBB", body)
                value, body = body[6 : 4 + length], body[4 + length :]
                if control & 1:
                    command += value
                elif control & 2:
                    received += 1
                    print("instance", received, flush=True)
                    if received <= 2:
                        answer = response(context, command)
                        release = struct.pack(">BxI4x", 5, 4)
                        connection.sendall(answer + release if received == 2 else answer)
                    command = b""
        else:
            print(NAMES[kind], flush=True)
            if kind != 5:
                return


with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        connection, _ = server.accept()
        with connection:
            try:
                serve(connection)
            except (EOFError, OSError):
                print("closed", flush=True)
END
# try COMMAND...: a fresh SCP for one command; $events is what it saw of the sender.
try() {
    local port
    port=$(free_port)
    serve "$port" python3 scp.py "$port"
    exit_code=$(status_of "${@//PORT/$port}")
    sleep 1
    events=$(sed 1d "server-$port.log" | paste -sd,)
}
try storescu 127.0.0.1 PORT files/CT1 files/CT2 files/CT3 files/CT4 files/CT5
expect "storescu" "$exit_code: $events" "10: instance 1,instance 2,instance 3,A-ABORT"
try dcmsend 127.0.0.1 PORT files/CT1 files/CT2 files/CT3 files/CT4 files/CT5
expect "dcmsend" "$exit_code: $events" "62: instance 1,instance 2,instance 3,A-ABORT"
try venv/bin/python -m pynetdicom storescu 127.0.0.1 PORT files
expect "pynetdicom storescu's exit code, and its answer" "$exit_code ${events##*,}" "0 A-RELEASE-RP"
expect "an error for what is left" \
    "$(grep -q '^RuntimeError: The association with a peer SCP must be established' output.txt && echo yes)" yes
finish
