"""What a peer can do wrong with bytes, lengths and order: the faults that a sender and a receiver must survive.

A script of `SERVERS` plays in a ScriptedSCP, one of `CLIENTS` through `play_scu`, over TCP or TLS. `hostile` makes
of either one that does not mind how the other side ends it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import struct
import zlib
from typing import TYPE_CHECKING, Final

from asyncstore.dimse import command_set
from asyncstore.dimse.messages import CEchoRQ, CStoreRQ, CStoreRSP
from asyncstore.status import SUCCESS, Status
from asyncstore.uids import (
    CT_IMAGE_STORAGE,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_SOP_CLASSES,
    TRANSFER_SYNTAXES,
    VERIFICATION,
)
from asyncstore.upper_layer.items import PresentationContext, PresentationContextResult, encode_item
from asyncstore.upper_layer.pdu import (
    Abort,
    AssociateAC,
    AssociateRJ,
    AssociateRQ,
    DataTF,
    Fragment,
    ReleaseRP,
    ReleaseRQ,
)
from asyncstore.upper_layer.user_information import OperationsWindow, UserIdentity, UserInformation
from tests.support import files
from tests.support.associations import image, pattern
from tests.support.wire import PDU, Script, ScriptError, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXPLICIT: Final = PresentationContext(1, CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,))
DEFLATED: Final = PresentationContext(1, CT_IMAGE_STORAGE, (DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,))
ECHO: Final = PresentationContext(3, VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,))
# Text that would clear a screen, set a title, ring, go back over a line, or be read as markup.
NASTY: Final = "\x1b[2J\x1b]0;owned\x07\r\n[red]E: forged[/red]\x9b31m\u202e"
STRANGERS: Final = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "HTTP client": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "garbage": random.Random(5).randbytes(4000),
    "zeros": bytes(4000),
}
_FLOOD_BYTES: Final = 48 << 20


def hostile(script: Script) -> Script:
    """The script, which does not mind how the other side ends it, and then waits for its end."""

    @functools.wraps(script)
    def play(wire: Wire) -> None:
        with contextlib.suppress(OSError, ScriptError):
            script(wire)
            while wire.sock.recv(1 << 16):
                pass

    return play


def in_turn(*steps: Callable[[Wire], object]) -> Script:
    """A script that takes these steps."""

    def script(wire: Wire) -> None:
        for step in steps:
            step(wire)

    return script


def sending(*what: PDU | bytes) -> Script:
    """A step that sends this."""
    return lambda wire: wire.send(*what)


def flooding(unit: bytes, total_bytes: int | None = None) -> Script:
    """A step that sends the same again and again."""
    return lambda wire: flood(wire, unit, total_bytes or _FLOOD_BYTES)


def pdv(length: int, context_id: int = 1, control: int = 3, data: bytes = b"") -> bytes:
    """A PDV whose header says what it likes."""
    return struct.pack(">LBB", length, context_id, control) + data


def p_data(body: bytes, length: int | None = None) -> bytes:
    """A P-DATA-TF with this body."""
    return struct.pack(">BxL", 4, len(body) if length is None else length) + body


def fragment(data: bytes, *, command: bool = False, last: bool = False, context_id: int = 1) -> DataTF:
    """A P-DATA-TF with one fragment."""
    return DataTF((Fragment(context_id, command, last, data),))


def flood(wire: Wire, unit: bytes, total_bytes: int = _FLOOD_BYTES) -> None:
    """Send the same again and again."""
    many = unit * max(1, (1 << 18) // len(unit))
    for _ in range(total_bytes // len(many)):
        wire.send(many)


def nested(depth: int) -> bytes:
    """A data set that begins with a sequence in a sequence in a sequence."""
    opened = struct.pack("<HH2sHL", 0x0008, 0x0006, b"SQ", 0, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return opened * depth


def deflated_bomb() -> bytes:
    """Half a GB of zeros, deflated."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = files.element(0x00080005, b"UN", b"") + struct.pack("<HH2sHL", 0x0008, 0x0006, b"OB", 0, 0xFFFFFFF0)
    return deflate.compress(head) + b"".join(deflate.compress(bytes(1 << 20)) for _ in range(512)) + deflate.flush()


# -- a server ----------------------------------------------------------------------------------------------------------


def _accepts(then: Callable[[Wire], object], *in_the_same_piece: PDU | bytes) -> Script:
    def script(wire: Wire) -> None:
        wire.accept(*in_the_same_piece, operations_window=OperationsWindow(4, 1))
        then(wire)

    return script


def _answers(answer: Callable[[Wire, int], object]) -> Script:
    """One that reads a request, and is then given its Message ID."""
    return _accepts(lambda wire: answer(wire, wire.read_store().message_id))


def _requested(answer: Callable[[Wire, AssociateRQ], object]) -> Script:
    return lambda wire: answer(wire, wire.expect(AssociateRQ))


def _accepted(request: AssociateRQ, *, maximum: int = 16384, class_uid: str = "1.2.3.4.5") -> AssociateAC:
    results = tuple(
        PresentationContextResult(context.context_id, 0, context.transfer_syntaxes[0])
        for context in request.presentation_contexts
    )
    information = UserInformation(maximum, class_uid, "SCRIPTED")
    return AssociateAC(request.called_ae_title, request.calling_ae_title, results, information)


def _with_item(request: AssociateRQ, item: bytes, inner: bytes = b"") -> bytes:
    """An A-ASSOCIATE-AC with one more item, and one more in its user information."""
    encoded = bytearray(_accepted(request).encode())
    at = encoded.rindex(b"\x50\x00")
    encoded[at + 2 : at + 4] = (int.from_bytes(encoded[at + 2 : at + 4], "big") + len(inner)).to_bytes(2, "big")
    encoded += inner + item
    encoded[2:6] = (len(encoded) - 6).to_bytes(4, "big")
    return bytes(encoded)


def _nasty_everywhere(wire: Wire, request: AssociateRQ) -> None:
    """All text of a peer that is shown somewhere, at `-d` at the latest."""
    encoded = bytearray(_with_item(request, b"", encode_item(0x55, NASTY.encode("latin-1", "replace")[:16])))
    encoded[10:42] = NASTY.encode("latin-1", "replace")[:32]
    wire.send(bytes(encoded))
    for _ in request.presentation_contexts:
        store = wire.read_store()
        comment = NASTY.encode("latin-1", "replace")[:64]
        elements: list[tuple[int, int | bytes]] = [
            (command_set.AFFECTED_SOP_CLASS_UID, NASTY[:30].encode("latin-1", "replace")),
            (command_set.COMMAND_FIELD, 0x8001),
            (command_set.RESPONDED_TO, store.message_id),
            (command_set.DATA_SET_TYPE, 0x0101),
            (command_set.STATUS, 0xC123),
            (command_set.ERROR_COMMENT, comment),
            (command_set.AFFECTED_SOP_INSTANCE_UID, b"1.2\x1b[2J[red]"),
        ]
        wire.send(fragment(_command(elements), command=True, last=True))


def _command(elements: list[tuple[int, int | bytes]]) -> bytes:
    """A command set with elements that no encoder makes."""
    parts = []
    for element, value in elements:
        raw = value if isinstance(value, bytes) else struct.pack("<H", value)
        raw += b"\0" * (len(raw) & 1)
        parts.append(struct.pack("<HHL", 0, element & 0xFFFF, len(raw)) + raw)
    body = b"".join(parts)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _message(message: CStoreRSP | CEchoRQ | CStoreRQ) -> DataTF:
    return fragment(message.encode(), command=True, last=True)


def _wrong_answers() -> Iterator[tuple[str, Script]]:
    yield "answer to another message", _answers(lambda wire, n: wire.send(_message(CStoreRSP(n + 100, SUCCESS))))
    yield (
        "answer in another context",
        _answers(
            lambda wire, n: wire.send(fragment(CStoreRSP(n, SUCCESS).encode(), command=True, last=True, context_id=251))
        ),
    )
    yield "answer too early", _accepts(Wire.drain, _message(CStoreRSP(1, SUCCESS)))
    yield "answer twice", _answers(lambda wire, n: wire.send(*(2 * [_message(CStoreRSP(n, SUCCESS))])))
    yield (
        "answer with a data set",
        _answers(
            lambda wire, n: wire.send(_message(CStoreRSP(n, SUCCESS, has_data_set=True)), fragment(bytes(8), last=True))
        ),
    )
    yield (
        "request instead of an answer",
        _answers(lambda wire, n: wire.send(_message(CStoreRQ(n, CT_IMAGE_STORAGE, "1.2.3")))),
    )
    yield "data set without a command", _answers(lambda wire, n: wire.send(fragment(bytes(8), last=True)))
    yield (
        "command amid a data set",
        _answers(
            lambda wire, n: wire.send(
                _message(CStoreRQ(n, CT_IMAGE_STORAGE, "1.2.3")),
                fragment(bytes(8)),
                fragment(bytes(8), command=True),
            )
        ),
    )


def _endless() -> Iterator[tuple[str, Script]]:
    piece = bytes(16000)
    yield "a command that never ends", _answers(lambda wire, n: flood(wire, fragment(piece, command=True).encode()))
    yield (
        "an answer with a data set that never ends",
        _answers(
            lambda wire, n: in_turn(
                sending(_message(CStoreRSP(n, Status(0xB000), has_data_set=True))),
                flooding(fragment(piece).encode()),
            )(wire)
        ),
    )
    yield (
        "fragments without bytes",
        _answers(lambda wire, n: flood(wire, fragment(b"", command=True).encode(), _FLOOD_BYTES // 8)),
    )
    yield "requests without end", _answers(lambda wire, n: flood(wire, _message(CEchoRQ(1)).encode(), 4 << 20))


def _wrong_units(opened: Callable[[Callable[[Wire], object]], Script]) -> Iterator[tuple[str, Script]]:
    """PDUs that cannot be, where data may come: for either side."""

    def sends(*what: DataTF | bytes) -> Script:
        return opened(lambda wire: wire.send(*what))

    for pdu_type in range(1, 8):
        yield f"4 GiB of PDU {pdu_type}", sends(struct.pack(">BxL", pdu_type, 0xFFFFFFFF))
    yield "unknown PDU", sends(struct.pack(">BxL", 9, 4) + bytes(4))
    yield "PDU longer than announced", sends(p_data(pdv(300_002, data=bytes(300_000))))
    yield "no PDV", sends(p_data(b""))
    yield "PDV of length 0", sends(p_data(pdv(0)))
    yield "PDV of length 1", sends(p_data(pdv(1)))
    yield "PDV over the PDU", sends(p_data(pdv(5000, data=bytes(10))))
    yield "PDV of 4 GiB", sends(p_data(pdv(0xFFFFFFFF, data=bytes(10))))
    yield "a PDV header cut off", sends(p_data(pdv(2) + b"\0\0"))
    yield "even context", sends(fragment(bytes(8), command=True, last=True, context_id=2))
    yield "a million PDVs", sends(p_data(pdv(2, control=0) * 20_000))
    yield "command set of garbage", sends(fragment(random.Random(7).randbytes(200), command=True, last=True))
    yield "element of 4 GiB", sends(fragment(struct.pack("<HHL", 0, 0x0100, 0xFFFFFFFF), command=True, last=True))
    yield "no command field", sends(fragment(_command([(0x0110, 1)]), command=True, last=True))
    yield "A-ASSOCIATE-RQ again", sends(AssociateRQ("A", "B", (EXPLICIT,), UserInformation()).encode())
    yield "A-ASSOCIATE-AC", sends(AssociateAC("A", "B", (), UserInformation()).encode())
    yield "A-ASSOCIATE-RJ", sends(AssociateRJ(1, 1, 1).encode())
    yield "A-RELEASE-RP", sends(ReleaseRP().encode())
    yield "A-RELEASE-RQ amid it", sends(ReleaseRQ().encode())
    yield "A-ABORT", sends(Abort(0, 0).encode())
    yield "A-ABORT of the provider", sends(Abort(2, 6).encode())
    yield "A-ABORT of nobody", sends(Abort(77, 99).encode())
    yield "half a PDU and the end", opened(in_turn(sending(b"\x04\0\0\0\x10"), Wire.fin))
    yield "half a PDU and a reset", opened(in_turn(sending(b"\x04\0\0\0\x10"), Wire.rst))
    yield "the end", opened(Wire.fin)
    yield "a reset", opened(Wire.rst)
    yield "silence", opened(Wire.drain)
    for name, data in STRANGERS.items():
        yield f"{name} in the middle", sends(data)


def _associate_answers() -> Iterator[tuple[str, Script]]:
    for name, data in STRANGERS.items():
        yield f"{name} first", sending(data)
    yield "silence first", Wire.drain
    yield "the end first", Wire.fin
    yield "a reset first", Wire.rst
    yield "4 GiB first", lambda wire: wire.send(b"\x02\0\xff\xff\xff\xff")
    yield "a byte a second", _requested(lambda wire, request: wire.dribble(_accepted(request), pause_seconds=0.2))
    yield "half an answer and silence", _requested(lambda wire, request: wire.send(_accepted(request).encode()[:100]))
    yield (
        "an answer of 1 MiB",
        _requested(lambda wire, request: wire.send(b"\x02\0" + (1 << 20).to_bytes(4, "big") + bytes(1 << 20))),
    )
    yield (
        "context that was not proposed",
        _requested(
            lambda wire, request: wire.send(
                AssociateAC("A", "B", (PresentationContextResult(255, 0, "1.2.840.10008.1.2"),), UserInformation())
            )
        ),
    )
    yield "item over the PDU", _requested(lambda wire, request: wire.send(_with_item(request, b"\x21\0\xff\xff")))
    for maximum in (1, 7):
        yield (
            f"maximum of {maximum}",
            _requested(
                lambda wire, request, maximum=maximum: wire.send(_accepted(request, maximum=maximum))  # type: ignore[misc]
            ),
        )
    yield "release first", _requested(lambda wire, request: wire.send(ReleaseRQ()))
    yield "data first", _requested(lambda wire, request: wire.send(fragment(bytes(10), last=True)))
    yield "request as the answer", _requested(lambda wire, request: wire.send(request))
    yield "A-ABORT first", _requested(lambda wire, request: wire.send(Abort(2, 1)))
    yield "rejection of garbage", _requested(lambda wire, request: wire.send(b"\x03\0\0\0\0\x04\xff\xff\xff\xff"))
    yield "rejection cut off", _requested(lambda wire, request: wire.send(b"\x03\0\0\0\0\x01\x00"))
    yield "the same answer twice", _requested(lambda wire, request: wire.send(_accepted(request), _accepted(request)))


def _never_reads(wire: Wire) -> None:
    wire.accept()
    wire.hold()


def _harmless() -> Iterator[tuple[str, Script]]:
    """What a receiver may do, strange as it is: everything is stored."""

    def serves(*, item: bytes = b"", inner: bytes = b"") -> Script:
        def script(wire: Wire) -> None:
            request = wire.expect(AssociateRQ)
            wire.send(_with_item(request, item, inner))
            wire.serve_stores()

        return script

    def serves_with(maximum: int) -> Script:
        def script(wire: Wire) -> None:
            wire.send(_accepted(wire.expect(AssociateRQ), maximum=maximum))
            wire.serve_stores()

        return script

    yield "unknown items", serves(item=encode_item(0xEE, bytes(1000)), inner=encode_item(0x5F, bytes(1000)))
    for maximum in (0, 8, 13, 0xFFFFFFFF):
        yield f"maximum of {maximum}", serves_with(maximum)


EARLY_SERVERS: Final[dict[str, Script]] = dict(_associate_answers())
SERVERS: Final[dict[str, Script]] = dict(
    itertools.chain(
        _wrong_answers(),
        _endless(),
        _wrong_units(lambda then: _answers(lambda wire, _: then(wire))),
        [("never reads", _never_reads), ("nasty text", _requested(_nasty_everywhere))],
    )
)
HARMLESS_SERVERS: Final[dict[str, Script]] = dict(_harmless())


# -- a client ----------------------------------------------------------------------------------------------------------


def _associated(then: Callable[[Wire], object]) -> Script:
    def script(wire: Wire) -> None:
        wire.associate([EXPLICIT, ECHO], operations_window=OperationsWindow(16, 1))
        then(wire)

    return script


def _begun(then: Callable[[Wire], object]) -> Script:
    """One that is amid an instance of 3 MB, of which a part is on the disk."""

    data_set = image("1.2.9", 3_000_000)
    pieces = [fragment(data_set[at : at + 16000]) for at in range(0, 2_000_000, 16000)]
    begin = sending(_message(CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.9")), *pieces)
    return _associated(in_turn(begin, then))


def _request(*contexts: PresentationContext, **more: object) -> bytes:
    information = UserInformation(16384, "1.2.3", "SCRIPTED", **more)  # type: ignore[arg-type]
    return AssociateRQ("ANY-SCP", "HOSTILE", contexts or (EXPLICIT,), information).encode()


def many_contexts(count: int = 128, syntaxes: int = 40) -> bytes:
    """A request with as many contexts as there may be, each with every transfer syntax."""
    classes = itertools.cycle(sorted(STORAGE_SOP_CLASSES))
    uids = tuple(itertools.islice(TRANSFER_SYNTAXES, syntaxes))
    return _request(*(PresentationContext(2 * n + 1, next(classes), uids) for n in range(count)))


def _with_length(encoded: bytes) -> bytes:
    return encoded[:2] + (len(encoded) - 6).to_bytes(4, "big") + encoded[6:]


def _requests() -> Iterator[tuple[str, Script]]:
    for name, data in STRANGERS.items():
        yield f"{name} first", sending(data)
    for pdu_type in range(1, 8):
        unit = struct.pack(">BxL", pdu_type, 0xFFFFFFFF)
        yield f"4 GiB of PDU {pdu_type} first", sending(unit)
    whole = _request()
    yield "nothing", Wire.drain
    yield "connect and close", Wire.close
    yield "connect and reset", Wire.rst
    yield "half a request and silence", lambda wire: wire.send(whole[:50])
    yield "half a request and the end", in_turn(sending(whole[:50]), Wire.fin)
    yield "a request, a byte at a time", lambda wire: wire.dribble(whole, pause_seconds=0.05)
    yield "data first", lambda wire: wire.send(fragment(bytes(10), last=True))
    yield "release first", lambda wire: wire.send(ReleaseRQ())
    yield "1 MiB of nothing", lambda wire: wire.send(b"\x01\0" + (1 << 20).to_bytes(4, "big") + bytes(1 << 20))
    items = encode_item(0x20, b"") * 250_000
    yield "a million empty items", lambda wire: wire.send(_with_length((whole + items)[: 1 << 20]))
    information = encode_item(0x50, encode_item(0x54, bytes(4)) * 8000)
    yield "thousands of sub-items", lambda wire: wire.send(_with_length(whole + information))
    yield "128 contexts", lambda wire: wire.send(many_contexts())
    yield "one context twice", lambda wire: wire.send(_with_length(whole + _context(1, b"1.2.3")))
    yield "context of length 0", lambda wire: wire.send(_with_length(whole + b"\x20\0\0\0"))
    yield "item over the PDU", lambda wire: wire.send(_with_length(whole + b"\x20\0\xff\xff"))
    yield "no context", lambda wire: wire.send(AssociateRQ("A", "B", (), UserInformation()).encode())
    yield "maximum of 1", lambda wire: wire.send(AssociateRQ("A", "B", (EXPLICIT,), UserInformation(1)).encode())
    yield (
        "identity cut off",
        lambda wire: wire.send(_with_length(whole + encode_item(0x50, b"\x58\0\0\x04\x01\0\xff\xff"))),
    )
    yield "long identity", lambda wire: wire.send(_request(user_identity=UserIdentity(2, bytes(30_000), bytes(30_000))))
    yield "nasty titles", lambda wire: wire.send(whole[:10] + NASTY.encode("latin-1", "replace")[:32] + whole[42:])
    yield "another protocol version", lambda wire: wire.send(whole[:6] + b"\xff\xfe" + whole[8:])


def _context(context_id: int, uid: bytes) -> bytes:
    return encode_item(0x20, bytes((context_id, 0, 0, 0)) + encode_item(0x30, uid) + encode_item(0x40, uid))


def _stores() -> Iterator[tuple[str, Script]]:
    names = {
        "..": "../../../../tmp/hostile",
        "absolute": "/tmp/hostile",
        "NUL": "1.2\x00/../x",
        "escape": NASTY[:30],
        "markup": "[bold]1.2[/bold]",
        "backslash": "..\\..\\hostile",
        "device": "CON",
        "empty": "",
        "dots": "1..2",
        "long": "1." + "2" * 80,
        "digits": "१.२",
        "newline": "1.2.3\n",
    }
    for name, uid in names.items():
        raw = uid.encode("utf-8", "replace")[:64]
        yield f"UID: {name}", _associated(lambda wire, raw=raw: _store_raw(wire, raw))  # type: ignore[misc]
    yield "an instance of nothing", _associated(lambda wire: wire.store(b""))
    yield "a data set of garbage", _associated(lambda wire: wire.store(pattern(5000)))
    yield "nested sequences", _associated(lambda wire: wire.store(nested(20_000)))
    yield (
        "element of 4 GiB in a data set",
        _associated(lambda wire: wire.store(struct.pack("<HH2sHL", 8, 6, b"OB", 0, 0xFFFFFFFE))),
    )
    yield "deflated bomb", lambda wire: (wire.associate([DEFLATED]), wire.store(deflated_bomb()))
    yield "data set of another", _associated(lambda wire: wire.store(image("1.2.7"), sop_instance_uid="1.2.8"))
    yield "context that was not accepted", _associated(lambda wire: wire.store(image(), context_id=9))
    yield (
        "request without a Message ID",
        _associated(
            lambda wire: wire.send(fragment(_command([(0x0100, 0x0030), (0x0800, 0x0101)]), command=True, last=True))
        ),
    )
    yield "answer to nothing", _associated(lambda wire: wire.send(_message(CStoreRSP(1, SUCCESS))))
    yield "one Message ID, a thousand times", _associated(lambda wire: wire.send(*(1000 * [_message(CEchoRQ(1))])))


def _store_raw(wire: Wire, uid: bytes) -> None:
    """Store an instance under what is no UID."""
    elements: list[tuple[int, int | bytes]] = [
        (command_set.AFFECTED_SOP_CLASS_UID, CT_IMAGE_STORAGE.encode()),
        (command_set.COMMAND_FIELD, 0x0001),
        (command_set.MESSAGE_ID, 1),
        (command_set.PRIORITY, 0),
        (command_set.DATA_SET_TYPE, 0x0001),
        (command_set.AFFECTED_SOP_INSTANCE_UID, uid),
    ]
    wire.send(fragment(_command(elements), command=True, last=True), fragment(image("1.2.3.4"), last=True))
    wire.read_message()


def _floods() -> Iterator[tuple[str, Script]]:
    piece = bytes(16000)
    begin = _message(CStoreRQ(1, CT_IMAGE_STORAGE, "1.2.9"))
    empty = flooding(fragment(b"").encode(), _FLOOD_BYTES // 16)
    yield "a command that never ends", _associated(flooding(fragment(piece, command=True).encode()))
    yield "a data set that never ends", _associated(in_turn(sending(begin), flooding(fragment(piece).encode())))
    yield "fragments without bytes", _associated(in_turn(sending(begin), empty))
    crumbs = p_data(pdv(4, control=0, data=b"ab") * 1000)
    yield "a data set of crumbs", _associated(in_turn(sending(begin), flooding(crumbs, 2 << 20)))
    echo = fragment(CEchoRQ(1).encode(), command=True, last=True, context_id=3).encode()
    yield "requests whose answers are not read", _associated(lambda wire: flood(wire, echo))
    yield "never ends, never says anything", _associated(Wire.drain)


CLIENTS: Final[dict[str, Script]] = dict(
    itertools.chain(_requests(), _stores(), _floods(), ((f"amid: {name}", each) for name, each in _wrong_units(_begun)))
)
