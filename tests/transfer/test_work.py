"""Work: who takes what, and that nothing is lost, doubled, or in flight twice."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncstore.instances.instance import Instance
from asyncstore.instances.source import BytesSource
from asyncstore.ledger.protocol import Suspicion
from asyncstore.transfer.groups import directory_of
from asyncstore.transfer.suspects import MAXIMUM_SUSPECTS
from asyncstore.transfer.work import MAXIMUM_FOR_CODECS, MAXIMUM_WAITING, MAXIMUM_WAITING_BYTES, Work
from asyncstore.uids import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, RLE_LOSSLESS

if TYPE_CHECKING:
    from collections.abc import Container

    from asyncstore.transfer.pending import Pending
    from asyncstore.transfer.plan import Pair

CT = (CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN)
CT_IMPLICIT = (CT_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN)


def make(uid: str, pair: Pair = CT, size_bytes: int = 1000, path: str | None = "/x/1.dcm") -> Instance:
    return Instance(path, pair[0], uid, pair[1], 0, size_bytes, BytesSource(b""), size_bytes, 0)


class _Anything:
    def __contains__(self, pair: object) -> bool:
        return True


anything = _Anything()


def only(*served: Pair) -> frozenset[Pair]:
    return frozenset(served)


def work_of(*entries: tuple[str, str] | tuple[str, str, Pair], strict: bool = False) -> Work:
    """Work with instances of (UID, group), or (UID, group, pair)."""
    work = Work(strict=strict)
    for entry in entries:
        work.add(make(entry[0], entry[2] if len(entry) == 3 else CT), entry[1])
    return work


def take(work: Work, taker: object, served: Container[Pair] = anything) -> str | None:
    pending = work.take(taker, served)
    return None if pending is None else pending.instance.sop_instance_uid


def test_a_group_stays_with_the_association_that_began_it() -> None:
    work = work_of(("1", "a"), ("2", "b"), ("3", "a"), ("4", "b"))
    assert [take(work, taker) for taker in ("first", "second", "first", "second")] == ["1", "2", "3", "4"]


def test_without_a_free_group_the_one_with_the_most_waiting_is_shared() -> None:
    work = work_of(("1", "a"), ("2", "a"), ("3", "b"), ("4", "b"), ("5", "b"), ("6", "b"))
    assert take(work, "first") == "1"
    assert take(work, "second") == "3"
    assert take(work, "third") == "4"
    assert take(work, "second") == "5"
    assert take(work, "first") == "2"


def test_a_strict_group_is_never_shared_while_its_association_lives() -> None:
    work = work_of(("1", "a"), ("2", "a"), strict=True)
    assert take(work, "first") == "1"
    assert take(work, "second") is None
    assert not work.waits_for("second")
    assert work.waits_for("first")
    work.leave("first")
    assert work.waits_for("second")
    assert take(work, "second") == "2"


def test_a_strict_group_waits_for_its_association_also_when_it_was_empty() -> None:
    work = work_of(("1", "a"), strict=True)
    assert take(work, "first") == "1"
    work.add(make("2"), "a")
    assert take(work, "second") is None
    assert take(work, "first") == "2"


def test_of_very_many_studies_the_oldest_owner_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncstore.transfer.work._REMEMBERED_OWNERS", 2)
    work = work_of(("1", "a"), ("2", "b"), ("3", "c"), strict=True)
    for expected in "123":
        assert take(work, "first") == expected
    work.add(make("4"), "a")
    work.add(make("5"), "c")
    assert take(work, "second") == "4"
    assert take(work, "second") is None


def test_an_association_takes_only_what_it_can_carry() -> None:
    work = work_of(("1", "a", CT), ("2", "a", CT_IMPLICIT))
    assert take(work, "first", only(CT_IMPLICIT)) == "2"
    assert take(work, "first", only(CT_IMPLICIT)) is None
    assert work.waits_for("first")
    assert work.pairs_waiting() == [CT]


def test_what_can_be_carried_is_found_behind_any_number_of_groups_that_cannot() -> None:
    work = work_of(*((str(number), str(number), CT) for number in range(200)), ("x", "x", CT_IMPLICIT))
    assert take(work, "first", only(CT_IMPLICIT)) == "x"
    assert take(work, "second", only(CT)) == "0"
    work.add(make("y", CT_IMPLICIT), "0")  # in a group that another association has
    assert take(work, "first", only(CT_IMPLICIT)) == "y"


def test_pairs_of_groups_that_nobody_has_come_first() -> None:
    work = work_of(("1", "a", CT), ("2", "a", CT), ("3", "b", CT_IMPLICIT))
    assert take(work, "first") == "1"
    assert work.pairs_waiting() == [CT_IMPLICIT, CT]


def test_the_same_uid_waits_until_the_one_in_flight_has_ended() -> None:
    work = work_of(("1", "a"), ("1", "a"), ("1", "b"))
    work.feed_ended = True
    first = work.take("first", anything)
    assert first is not None
    assert take(work, "second") is None
    assert not work.is_done
    work.finish(first)
    second = work.take("second", anything)
    assert second is not None
    assert second.instance.sop_instance_uid == "1"
    work.retry(second, due_at=5.0)
    third = work.take("second", anything)
    assert third is not None
    work.finish(third)
    assert not work.is_done
    assert work.wake_retries(5.0)
    last = work.take("second", anything)
    assert last is second
    work.finish(last)
    assert work.is_done


def test_others_with_a_uid_in_flight_count_as_read_ahead_and_come_one_by_one() -> None:
    work = work_of(*[("1", "a")] * (MAXIMUM_WAITING + 1))
    first = work.take("first", anything)
    assert first is not None
    assert take(work, "second") is None
    assert not work.has_room
    assert work.waiting == 0
    work.finish(first)
    assert work.waiting == 1
    assert not work.has_room
    assert take(work, "second") == "1"
    assert work.has_room


def test_all_of_a_kind_are_taken_out_with_those_whose_uid_is_in_flight_and_those_that_wait_for_them() -> None:
    work = work_of(("1", "a", CT), ("1", "a", CT), ("2", "b", CT_IMPLICIT), ("2", "b", CT), ("2", "b", CT_IMPLICIT))
    first, second = work.take("first", anything), work.take("second", anything)
    assert first is not None
    assert second is not None
    assert take(work, "third") is None
    work.finish(second)
    assert len(work.take_all({CT})) == 2
    work.finish(first)
    assert [take(work, "first"), take(work, "second")] == ["2", None]


def test_a_retry_waits_until_it_is_due_and_then_behind_the_others() -> None:
    work = work_of(("1", "a"), ("2", "a"))
    pending = work.take("first", anything)
    assert pending is not None
    work.retry(pending, due_at=10.0)
    assert not work.wake_retries(9.9)
    assert work.wake_retries(10.0)
    assert [take(work, "first"), take(work, "first"), take(work, "first")] == ["2", "1", None]


def test_retries_come_now_and_then_while_there_is_other_work() -> None:
    work = work_of(*(("r" + str(number), "a") for number in range(3)), *((str(number), "b") for number in range(40)))
    for _ in range(3):
        pending = work.take("first", anything)
        assert pending is not None
        work.retry(pending, due_at=0.0)
    assert not work.only_suspects_matter
    assert work.wake_retries(0.0)
    order = [uid for _ in range(43) if (uid := take(work, "first")) is not None]
    assert sorted(order) == sorted(["r0", "r1", "r2", *map(str, range(40))])
    places = [place for place, uid in enumerate(order) if uid.startswith("r")]
    assert places[0] >= 10  # not before the others
    assert places[1] < 40  # and not only after them
    work.feed_ended = True
    assert work.only_suspects_matter


def test_retries_are_taken_out_with_their_kind_and_keep_to_their_study() -> None:
    work = work_of(("1", "a"), ("2", "b"), ("3", "b", CT_IMPLICIT), strict=True)
    first, second = work.take("first", anything), work.take("second", anything)
    assert first is not None
    assert second is not None
    work.retry(first, due_at=0.0)
    work.retry(second, due_at=0.0)
    work.wake_retries(0.0)
    assert work.waits_for("first")
    assert take(work, "first") == "1"
    assert not work.waits_for("first")
    assert take(work, "first") is None
    assert work.take_all({CT}) == [second]
    assert work.pairs_waiting() == [CT_IMPLICIT]


def test_what_is_put_back_waits_again() -> None:
    work = work_of(("1", "a"))
    pending = work.take("first", anything)
    assert pending is not None
    assert work.waiting == 0
    work.put_back(pending)
    assert work.waiting == 1
    assert take(work, "second") == "1"


def test_all_of_a_kind_are_taken_out_whoever_they_wait_for() -> None:
    work = work_of(("1", "a", CT), ("2", "a", CT_IMPLICIT), ("3", "b", CT), ("4", "a", CT), strict=True)
    assert take(work, "first") == "1"
    assert sorted(pending.instance.sop_instance_uid for pending in work.take_all({CT})) == ["3", "4"]
    assert (work.waiting, work.waiting_bytes) == (1, 1000)
    assert work.pairs_waiting() == [CT_IMPLICIT]


def test_reading_ahead_ends_with_a_number_of_instances() -> None:
    work = work_of(*((str(number), "a") for number in range(MAXIMUM_WAITING - 1)))
    assert work.has_room
    work.add(make("last"), "a")
    assert not work.has_room
    assert take(work, "first") == "0"
    assert work.has_room


@pytest.mark.parametrize(
    ("size_bytes", "path", "are_held"), [(100_000, "/x", True), (10_000_000, "/x", False), (10_000_000, None, True)]
)
def test_reading_ahead_ends_with_the_bytes_that_are_held_in_memory(
    size_bytes: int, path: str | None, are_held: bool
) -> None:
    work = Work()
    for number in range(100):
        work.add(make(str(number), size_bytes=size_bytes, path=path), "a")
    assert work.has_room is not are_held
    assert (work.waiting_bytes >= MAXIMUM_WAITING_BYTES) is are_held


def test_what_waits_for_a_codec_leaves_room_for_others_and_holds_no_bytes() -> None:
    work = Work()
    compressed = (CT_IMAGE_STORAGE, RLE_LOSSLESS)
    for number in range(MAXIMUM_WAITING):
        assert work.has_room
        work.add(make(f"1.{number}", compressed), f"{number % 5}")
        if number == MAXIMUM_WAITING // 2:  # those before are known only now to need one
            assert work.waiting_bytes > 0
            work.note_codecs(frozenset([compressed]))
            work.note_codecs(frozenset([compressed]))
    assert (work.waiting, work.waiting_bytes) == (MAXIMUM_WAITING, 0)
    for number in range(MAXIMUM_WAITING):
        assert work.has_room
        work.add(make(f"2.{number}"), "others")
    assert not work.has_room
    assert work.take("worker", only(CT)) is not None
    assert work.has_room
    for number in range(MAXIMUM_FOR_CODECS):
        work.add(make(f"3.{number}", compressed), "more")
    assert not work.has_room


@pytest.mark.parametrize(("path", "directory"), [("/a/b/c.dcm", "/a/b"), ("c.dcm", ""), (None, "")])
def test_the_directory_of_a_path(path: str | None, directory: str) -> None:
    assert directory_of(path) == directory


class WorkMachine(RuleBasedStateMachine):
    """Takers take, finish, retry and give back at random: each instance ends once, and no UID is in flight twice."""

    def __init__(self) -> None:
        super().__init__()
        self.added: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.in_flight: list[tuple[str, Pending]] = []
        self.now = 0.0

    @initialize(strict=st.booleans())
    def begin(self, strict: bool) -> None:
        self.strict = strict
        self.work = Work(strict=strict)

    @rule(uid=st.sampled_from("123456789"), key=st.sampled_from("abc"), pair=st.sampled_from([CT, CT_IMPLICIT]))
    def add(self, uid: str, key: str, pair: Pair) -> None:
        self.added[uid] += 1
        self.work.add(make(uid, pair, path=None), key)

    @rule(taker=st.sampled_from("xyz"), served=st.sets(st.sampled_from([CT, CT_IMPLICIT]), min_size=1))
    def take(self, taker: str, served: set[Pair]) -> None:
        pending = self.work.take(taker, served)
        if pending is not None:
            assert pending.pair in served
            self.in_flight.append((taker, pending))
        elif not self.strict:
            assert not served.intersection(self.work.pairs_waiting())

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), how=st.sampled_from(["finish", "retry", "suspect", "put_back"]))
    def end(self, data: st.DataObject, how: str) -> None:
        _, pending = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        if how == "finish":
            self.finished[pending.instance.sop_instance_uid] += 1
            self.work.finish(pending)
        elif how == "put_back":
            self.work.put_back(pending)
        else:
            pending.is_suspected |= how == "suspect"
            self.work.retry(pending, self.now + data.draw(st.integers(0, 3)))

    @rule(seconds=st.integers(0, 2))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.work.wake_retries(self.now)

    @rule(taker=st.sampled_from("xyz"))
    def leave(self, taker: str) -> None:
        if all(other != taker for other, _ in self.in_flight):
            self.work.leave(taker)

    @rule(pair=st.sampled_from([CT, CT_IMPLICIT]))
    def refuse(self, pair: Pair) -> None:
        for pending in self.work.take_all({pair}):
            self.finished[pending.instance.sop_instance_uid] += 1

    @invariant()
    def what_is_sent_again_is_counted_as_if_it_were_looked_through(self) -> None:
        later = [pending for *_, pending in self.work._retries]
        last = [*self.work._suspects, *(pending for pending in later if pending.is_suspected)]
        assert self.work.retrying == (len([*self.work._ready_again(), *later]), len(last))

    @invariant()
    def no_uid_is_in_flight_twice(self) -> None:
        uids = [pending.instance.sop_instance_uid for _, pending in self.in_flight]
        assert len(uids) == len(set(uids))

    @invariant()
    def no_strict_group_is_on_two_associations(self) -> None:
        if getattr(self, "strict", False):
            takers = {(pending.key, taker) for taker, pending in self.in_flight}
            assert len(takers) == len({key for key, _ in takers})

    @invariant()
    def everything_is_somewhere(self) -> None:
        if hasattr(self, "work"):
            left = Counter(pending.instance.sop_instance_uid for pending in self.work.left)
            flying = Counter(pending.instance.sop_instance_uid for _, pending in self.in_flight)
            assert left + flying + self.finished == self.added
            assert self.work.waiting_bytes == 1000 * self.work.waiting

    def teardown(self) -> None:
        if not hasattr(self, "work"):
            return
        self.work.feed_ended = True
        for _, pending in self.in_flight:
            self.finished[pending.instance.sop_instance_uid] += 1
            self.work.finish(pending)
        for taker in "xyz":
            self.work.leave(taker)
        self.work.wake_retries(float("inf"))
        while (last := self.work.take("last", anything)) is not None:
            self.finished[last.instance.sop_instance_uid] += 1
            self.work.finish(last)
        assert self.work.is_done
        assert self.finished == self.added


TestWork = WorkMachine.TestCase
TestWork.settings = settings(stateful_step_count=60)


# -- suspected instances -----------------------------------------------------------------------------------------------


def suspect(work: Work, taker: object = "first") -> Pending:
    """The next instance, back again as suspected."""
    pending = work.take(taker, anything)
    assert pending is not None
    pending.is_suspected = True
    pending.losses = 1
    work.retry(pending, due_at=0.0)
    return pending


def test_suspected_instances_come_after_all_others_also_after_other_retries() -> None:
    work = work_of(*((str(number), "a") for number in range(40)))
    suspect(work)
    again = work.take("first", anything)
    assert again is not None
    work.retry(again, due_at=0.0)
    assert not work.only_suspects_matter
    work.wake_retries(0.0)
    order = [take(work, "first") for _ in range(41)]
    assert order[-2:] == ["0", None]
    assert "1" in order


def test_what_a_run_of_weeks_suspects_need_not_wait_for_its_end() -> None:
    work = work_of(*((str(number), "a") for number in range(40)))
    suspect(work)
    work.wake_retries(0.0)
    work.wake_retries(299.0)
    assert [take(work, "first") for _ in range(17)] == [str(number) for number in range(1, 18)]
    work.wake_retries(300.0)
    assert "0" in {take(work, "first") for _ in range(17)}


def test_work_tells_when_only_suspected_instances_are_left() -> None:
    work = work_of(("1", "a"), ("2", "a"))
    suspect(work)
    work.wake_retries(0.0)
    assert (work.suspected_waiting, work.only_suspects_matter) == (0, False)
    last = suspect(work)
    assert not work.only_suspects_matter
    work.end_feed()
    assert work.only_suspects_matter
    assert work.suspected_waiting == 1
    work.wake_retries(0.0)
    assert work.suspected_waiting == 2
    assert list(work.left)[-1] is last
    work.add_suspected(make("refused"), "a", Suspicion(0), 0.0)
    assert work.suspected_waiting == 2  # that one need not be sent alone


def test_what_an_earlier_run_suspected_comes_last_with_what_is_known_of_it() -> None:
    work = work_of(("1", "a"))
    work.add_suspected(make("lost"), "a", Suspicion(2), 0.0)
    work.add_suspected(make("refused"), "a", Suspicion(0), 0.0)
    assert take(work, "first") == "1"
    lost, refused = work.take("first", anything), work.take("first", anything)
    assert lost is not None
    assert refused is not None
    assert (lost.losses, lost.answers_when_suspected, lost.was_refused_earlier) == (2, 0, False)
    assert (refused.losses, refused.answers_when_suspected, refused.was_refused_earlier) == (0, None, True)
    assert lost.is_suspected
    assert refused.is_suspected


def test_suspected_instances_of_a_refused_kind_are_taken_out_with_it() -> None:
    work = work_of(("1", "a"), ("2", "a", CT_IMPLICIT))
    suspect(work)
    suspect(work)
    work.wake_retries(0.0)
    assert work.pairs_waiting() == [CT, CT_IMPLICIT]
    assert [pending.instance.sop_instance_uid for pending in work.take_all(only(CT))] == ["1"]
    assert take(work, "first") == "2"
    assert work.waiting == 0


def test_a_probe_comes_from_any_place_and_is_small() -> None:
    work = Work()
    for number in range(100):
        work.add(make(str(number), size_bytes=1000 if number % 2 else 10**9), "a")
    taken = [work.take_probe("first", anything) for _ in range(20)]
    uids = [int(pending.instance.sop_instance_uid) for pending in taken if pending is not None]
    assert len(set(uids)) == 20
    assert uids != list(range(20))
    assert sum(number % 2 for number in uids) >= 18  # one of eight choices was small nearly always
    rest = [take(work, "first") for _ in range(81)]
    assert rest[-1] is None
    assert len({*uids, *map(int, filter(None, rest))}) == 100


def test_a_probe_keeps_to_the_contexts_and_the_study_of_the_association() -> None:
    work = work_of(("1", "a"), ("2", "b"), ("3", "b", CT_IMPLICIT), ("4", "b"), strict=True)
    assert take(work, "first") == "1"
    assert take(work, "second") == "2"
    probe = work.take_probe("second", only(CT))
    assert probe is not None
    assert probe.instance.sop_instance_uid == "4"
    assert work.take_probe("first", anything) is None
    assert work.take_probe("second", only(CT_IMPLICIT)) is not None
    assert work.waiting == 0


def test_a_probe_passes_over_what_waits_for_another_with_its_uid() -> None:
    work = work_of(("1", "a"), ("1", "b"), ("2", "c"))
    assert take(work, "first") == "1"
    assert {work.take_probe("first", anything) is not None for _ in range(1)} == {True}
    assert work.take_probe("first", anything) is None
    assert work.waiting == 0
    assert len(list(work.left)) == 1


def test_suspected_instances_leave_room_for_others_until_they_are_too_many() -> None:
    work = Work()
    for number in range(MAXIMUM_SUSPECTS - 1):
        work.add_suspected(make(str(number)), "a", Suspicion(1), 0.0)
    assert work.has_room
    assert not work.only_suspects_matter
    work.add(make("other"), "b")
    work.add_suspected(make("last"), "a", Suspicion(1), 0.0)
    assert not work.has_room
    assert work.only_suspects_matter
    assert take(work, "first") == "0"
    assert work.has_room
    assert take(work, "first") == "other"


def test_suspected_instances_in_memory_are_bounded_by_their_bytes() -> None:
    work = Work()
    work.add_suspected(make("file", size_bytes=60_000), "a", Suspicion(1), 0.0)
    assert work.waiting_bytes == 0  # it is read again
    work.add_suspected(make("memory", size_bytes=9 << 20, path=None), "a", Suspicion(1), 0.0)
    assert not work.has_room


def test_a_suspected_instance_that_was_not_sent_comes_last_again() -> None:
    work = work_of(("1", "a"), ("2", "a"), ("3", "a"))
    suspect(work)
    work.wake_retries(0.0)
    assert [take(work, "first"), take(work, "first")] == ["2", "3"]
    pending = work.take("first", anything)
    assert pending is not None
    work.add(make("4"), "a")
    work.put_back(pending)
    assert [take(work, "first"), take(work, "first")] == ["4", "1"]


def test_in_trouble_the_suspected_instance_with_the_fewest_losses_is_tried() -> None:
    work = Work()
    for number, losses in enumerate((3, 2, 1, 2, 3), start=1):
        work.add_suspected(make(str(number)), "a", Suspicion(losses), 0.0)
    pending = work.take_probe("first", anything)
    assert pending is not None
    assert pending.losses == 1


def test_a_study_that_an_association_has_is_no_work_for_a_new_one() -> None:
    work = work_of(("1", "a"), ("2", "a"), ("3", "b"), strict=True)
    assert work.waiting_for_new == 3
    assert take(work, "first") == "1"
    assert (work.waiting, work.waiting_for_new) == (2, 1)
    suspect(work)
    work.wake_retries(0.0)
    assert (work.waiting, work.waiting_for_new) == (2, 1)
    work.leave("first")
    assert work.waiting_for_new == 2
