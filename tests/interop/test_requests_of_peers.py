"""A real peer asks on the association that we opened."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, cast

import anyio
import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification  # type: ignore[attr-defined]

from asyncstore.net.peer import Peer
from asyncstore.services.scu import associate
from asyncstore.services.verification import VerificationProvider
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from tests.support.associations import LIMIT_SECONDS, image_file

CONTEXTS = [(CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,)), (VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,))]


class Asking:
    """pynetdicom as an SCP that verifies, by C-ECHO-RQ on the same association, whoever associates with it."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.has_asked = threading.Event()
        self._entity = AE("ASKING")
        self._entity.add_supported_context(CTImageStorage, EXPLICIT_VR_LITTLE_ENDIAN)
        self._entity.add_supported_context(Verification, scu_role=True, scp_role=True)

    def __enter__(self) -> int:
        handlers: list[Any] = [(evt.EVT_ESTABLISHED, self._established), (evt.EVT_C_STORE, lambda _: 0)]
        server = self._entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self._server = cast("Any", server)  # None only when it blocks
        return int(self._server.server_address[1])

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _established(self, event: Any) -> None:
        threading.Thread(target=self._ask, args=(event.assoc,), daemon=True).start()

    def _ask(self, association: Any) -> None:
        with contextlib.suppress(ValueError):  # there is no context in which it may ask
            self.status = association.send_c_echo().Status
        self.has_asked.set()


@pytest.mark.parametrize("is_provided", [True, False])
async def test_pynetdicom_verifies_us_on_the_association_that_we_opened(is_provided: bool, tmp_path: Any) -> None:
    """Its role is negotiated where we perform it (PS3.7 D.3.3.4); it must not even ask where we do not."""
    asking = Asking()
    providers = {VERIFICATION: VerificationProvider()} if is_provided else None
    with asking as port, anyio.fail_after(LIMIT_SECONDS):
        peer = Peer("127.0.0.1", port, "ASKING")
        async with associate(peer, CONTEXTS, providers=providers) as association:
            assert await anyio.to_thread.run_sync(asking.has_asked.wait, LIMIT_SECONDS)
            assert asking.status == (0 if is_provided else None)
            outcome = await association.store(image_file(tmp_path / "a.dcm"))
            assert outcome.is_stored
            assert association.failure is None
