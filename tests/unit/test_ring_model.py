"""The ring against a model, a deque: any sequence of operations, crashes and damage included."""
import importlib.util
import mmap
from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

# Its method ends even a loop in native code.
pytestmark = pytest.mark.timeout(120, method="thread")

CAPACITY = mmap.PAGESIZE
WORD = 8


@pytest.fixture(scope="module")
def ring_ops(build_native, tmp_path_factory, gcc):
    """The module tests/native/ring_ops.pyx."""
    built = build_native(tmp_path_factory.mktemp("ring"), "ring_ops", gcc)
    spec = importlib.util.spec_from_file_location("ring_ops", built)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Entry:
    """A record as it must be."""

    position: int
    data: bytes | None           # None: to be skipped
    span: int
    is_committed: bool = False
    is_truncated: bool = False
    is_damaged: bool = False


def span_of(length):
    return (WORD + length + WORD - 1) // WORD * WORD


class RingMachine(RuleBasedStateMachine):
    """Each rule does the same to both."""

    make_ring = None             # ring_ops.PyRing

    def __init__(self):
        super().__init__()
        self.ring = self.make_ring(CAPACITY)
        self.model = deque()
        self.count = 0

    @property
    def head(self):
        return self.model[-1].position + self.model[-1].span if self.model else self.ring.tail

    def is_intact(self):
        return not any(entry.is_damaged for entry in self.model)

    @rule(length=st.one_of(st.integers(1, 60), st.integers(1, CAPACITY // 2 - WORD)),
          severity=st.integers(0, 7))
    def reserve(self, length, severity):
        """There is room exactly if the ring, or its part for lesser records, has so many bytes."""
        self.count += 1
        data = (b"%d " % self.count * length)[:length]
        limit = CAPACITY if severity <= 4 else CAPACITY * 7 // 8
        position = self.ring.reserve(data, severity)
        if self.ring_used() + span_of(length) > limit:
            assert position is None
        else:
            assert position == self.head
            self.model.append(Entry(position, data, span_of(length)))

    def ring_used(self):
        return sum(entry.span for entry in self.model)

    @rule(data=st.data())
    @precondition(lambda self: any(not entry.is_committed for entry in self.model))
    def commit(self, data):
        """In any order."""
        entry = data.draw(st.sampled_from([e for e in self.model if not e.is_committed]))
        self.ring.commit(entry.position)
        entry.is_committed = True

    def committed_prefix(self):
        found = []
        for entry in self.model:
            if not entry.is_committed:
                break
            found.append(entry)
        return found

    @rule(data=st.data())
    @precondition(lambda self: self.committed_prefix())
    def release(self, data):
        """Some of the first; their memory is zeros again."""
        count = data.draw(st.integers(1, len(self.committed_prefix())))
        begin = self.ring.tail
        for _ in range(count):
            entry = self.model.popleft()
        end = entry.position + entry.span
        self.ring.release(end)
        assert self.ring.tail == end and self.ring.is_zero(begin, end)

    @rule(data=st.data())
    @precondition(lambda self: any(len(entry.data or b"") > 1 for entry in self.committed_prefix()))
    def shorten(self, data):
        """What is cut off becomes a record that is skipped."""
        entry = data.draw(st.sampled_from([each for each in self.committed_prefix()
                                           if len(each.data or b"") > 1]))
        length = data.draw(st.integers(1, len(entry.data) - 1))
        self.ring.shorten(entry.position, length)
        rest = entry.span - span_of(length)
        entry.data, entry.span, entry.is_truncated = entry.data[:length], span_of(length), True
        if rest:
            self.model.insert(self.model.index(entry) + 1,
                              Entry(entry.position + entry.span, None, rest, True))

    @rule()
    def crash(self):
        """What was not committed is skipped; all else is there."""
        unfinished = [entry for entry in self.model if not entry.is_committed]
        kept = [entry for entry in self.model if entry.is_committed and entry.data is not None]
        assert self.ring.mend() == (len(kept), len(unfinished), 0)
        for entry in unfinished:
            entry.data, entry.is_committed = None, True

    @rule(data=st.data())
    @precondition(lambda self: self.committed_prefix())
    def crash_in_release(self, data):
        """What the writer was giving back is sent: none of it is there again."""
        count = data.draw(st.integers(1, len(self.committed_prefix())))
        begin = self.ring.tail
        for _ in range(count):
            entry = self.model.popleft()
        end = entry.position + entry.span
        self.ring.release_half(end, data.draw(st.integers(begin, end)))
        self.crash()
        assert self.ring.tail == end and self.ring.is_zero(begin, end)

    @rule(data=st.data())
    @precondition(lambda self: self.model)
    def crash_with_damage(self, data):
        """Whatever was overwritten: what was not comes back, in order, and the ring works on."""
        hit = data.draw(st.lists(st.sampled_from(self.model), max_size=4, unique_by=id))
        for entry in hit:
            place = data.draw(st.integers(0, entry.span // WORD - 1))
            self.ring.damage(entry.position + place * WORD, data.draw(
                st.one_of(st.just(0), st.integers(0, 2**64 - 1), st.integers(0, 2**20))))
        whole = [entry.data for entry in self.model
                 if entry not in hit and entry.is_committed and entry.data is not None]
        assert self.ring.mend() is not None
        found = self.read_again()
        rest = iter([entry.data for entry in found])
        assert all(any(each == other for other in rest) for each in whole)
        self.model = deque(found)

    def read_again(self):
        """The ring as it is now: it must be readable from end to end."""
        found = []
        position = self.ring.tail
        while position < self.ring.head:
            data, end, is_truncated = self.ring.peek(position)
            found.append(Entry(position, data, end - position, True, is_truncated))
            position = end
        assert position == self.ring.head
        return found

    @rule(positions=st.tuples(*[st.integers(0, 2**64 - 1)] * 3))
    def crash_with_wrong_positions(self, positions):
        """They are refused, or the ring can be read: see Engine."""
        before = self.ring.head, self.ring.tail
        head, tail, done = positions
        is_sane = (head % WORD == tail % WORD == done % WORD == 0 and tail <= done <= head
                   and head - tail <= CAPACITY and head <= 1 << 62)
        if not is_sane:
            self.ring.damage_positions(*positions)
            assert self.ring.mend() is None
            self.ring.damage_positions(*before, before[1])

    @invariant()
    def is_the_model(self):
        """The writer sees exactly the committed ones up to the first that is not."""
        assert self.ring.used == self.ring_used() and self.ring.head == self.head
        position = self.ring.tail
        for entry in self.committed_prefix():
            assert entry.position == position
            data, position, is_truncated = self.ring.peek(position)
            assert (data, position, is_truncated) == (
                entry.data, entry.position + entry.span, entry.is_truncated)
        if len(self.committed_prefix()) < len(self.model):
            assert self.ring.peek(position) is None

    @invariant()
    def free_memory_is_zeros(self):
        assert self.ring.is_zero(self.ring.head, self.ring.tail + CAPACITY)


def test_ring_is_its_model(ring_ops, monkeypatch):
    monkeypatch.setattr(RingMachine, "make_ring", ring_ops.PyRing)
    run_state_machine_as_test(RingMachine, settings=settings(
        max_examples=150, stateful_step_count=40, deadline=None, derandomize=True,
        database=None, suppress_health_check=list(HealthCheck)))
