"""The ring behaves like a deque in any sequence of operations, including crashes and damage."""
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

# Unlike the signal method, the thread method also ends an endless loop in native code.
pytestmark = pytest.mark.timeout(120, method="thread")

CAPACITY = mmap.PAGESIZE
WORD = 8


@pytest.fixture(scope="module")
def ring_ops(build_native, tmp_path_factory, gcc):
    """Build and import the module tests/native/ring_ops.pyx."""
    path = build_native(tmp_path_factory.mktemp("ring"), "ring_ops", gcc)
    spec = importlib.util.spec_from_file_location("ring_ops", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Entry:
    """The expected state of one record in the ring."""

    position: int                # in bytes
    data: bytes | None           # None if the reader must skip the record
    span: int                    # bytes occupied in the ring, including the record's word
    is_committed: bool = False
    is_truncated: bool = False
    is_damaged: bool = False


def compute_span(length):
    """Return the number of bytes that a record of `length` bytes occupies in the ring."""
    return (WORD + length + WORD - 1) // WORD * WORD


class RingMachine(RuleBasedStateMachine):
    """Applies each operation to the ring and to the model and compares them."""

    make_ring = None             # The test sets this to ring_ops.PyRing.

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
        """A reservation succeeds exactly if the record fits into the space for its severity.

        Records less severe than WARNING may use seven eighths of the ring.
        """
        self.count += 1
        data = (b"%d " % self.count * length)[:length]
        limit = CAPACITY if severity <= 4 else CAPACITY * 7 // 8
        position = self.ring.reserve(data, severity)
        if self.model_used() + compute_span(length) > limit:
            assert position is None
        else:
            assert position == self.head
            self.model.append(Entry(position, data, compute_span(length)))

    def model_used(self):
        return sum(entry.span for entry in self.model)

    @rule(data=st.data())
    @precondition(lambda self: any(not entry.is_committed for entry in self.model))
    def commit(self, data):
        """Reserved records may be committed in any order."""
        entry = data.draw(st.sampled_from(
            [candidate for candidate in self.model if not candidate.is_committed]))
        self.ring.commit(entry.position)
        entry.is_committed = True

    def committed_prefix(self):
        """Return the committed records that precede the first uncommitted one."""
        entries = []
        for entry in self.model:
            if not entry.is_committed:
                break
            entries.append(entry)
        return entries

    @rule(data=st.data())
    @precondition(lambda self: self.committed_prefix())
    def release(self, data):
        """The oldest records can be released, and their memory is zeroed."""
        count = data.draw(st.integers(1, len(self.committed_prefix())))
        begin = self.ring.tail
        for _ in range(count):
            entry = self.model.popleft()
        end = entry.position + entry.span
        self.ring.release(end)
        assert self.ring.tail == end and self.ring.is_zero(begin, end)

    @rule(data=st.data())
    @precondition(lambda self: any(len(entry.data or b"") > 1 for entry in self.committed_prefix()))
    def truncate(self, data):
        """The part cut off a truncated record becomes a record that is skipped."""
        entry = data.draw(st.sampled_from([candidate for candidate in self.committed_prefix()
                                           if len(candidate.data or b"") > 1]))
        length = data.draw(st.integers(1, len(entry.data) - 1))
        self.ring.truncate(entry.position, length)
        rest = entry.span - compute_span(length)
        entry.data, entry.span, entry.is_truncated = entry.data[:length], compute_span(length), True
        if rest:
            self.model.insert(self.model.index(entry) + 1,
                              Entry(entry.position + entry.span, None, rest, True))

    @rule()
    def crash(self):
        """Recovery after a crash skips uncommitted records and keeps all others."""
        unfinished = [entry for entry in self.model if not entry.is_committed]
        intact = [entry for entry in self.model if entry.is_committed and entry.data is not None]
        assert self.ring.recover() == (len(intact), len(unfinished), 0)
        for entry in unfinished:
            entry.data, entry.is_committed = None, True

    @rule(data=st.data())
    @precondition(lambda self: self.committed_prefix())
    def crash_in_release(self, data):
        """Records whose release a crash interrupted are sent records and do not reappear."""
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
        """Recovery keeps the undamaged records in order, and the ring remains usable."""
        damaged = data.draw(st.lists(st.sampled_from(self.model), max_size=4, unique_by=id))
        for entry in damaged:
            word_index = data.draw(st.integers(0, entry.span // WORD - 1))
            self.ring.damage(entry.position + word_index * WORD, data.draw(
                st.one_of(st.just(0), st.integers(0, 2**64 - 1), st.integers(0, 2**20))))
        intact = [entry.data for entry in self.model
                  if entry not in damaged and entry.is_committed and entry.data is not None]
        assert self.ring.recover() is not None
        entries = self.read_all()
        recovered = iter([entry.data for entry in entries])
        assert all(any(data == candidate for candidate in recovered) for data in intact)
        self.model = deque(entries)

    def read_all(self):
        """Read the ring from tail to head and assert that it is readable throughout."""
        entries = []
        position = self.ring.tail
        while position < self.ring.head:
            data, end, is_truncated = self.ring.peek(position)
            entries.append(Entry(position, data, end - position, True, is_truncated))
            position = end
        assert position == self.ring.head
        return entries

    @rule(positions=st.tuples(*[st.integers(0, 2**64 - 1)] * 3))
    def crash_with_wrong_positions(self, positions):
        """Recovery refuses inconsistent values of head, tail and sent_pos."""
        original_head, original_tail = self.ring.head, self.ring.tail
        head, tail, sent_pos = positions
        is_valid = (head % WORD == tail % WORD == sent_pos % WORD == 0 and tail <= sent_pos <= head
                    and head - tail <= CAPACITY and head <= 1 << 62)
        if not is_valid:
            self.ring.damage_positions(*positions)
            assert self.ring.recover() is None
            self.ring.damage_positions(original_head, original_tail, original_tail)

    @invariant()
    def ring_matches_the_model(self):
        """The writer sees exactly the committed records before the first uncommitted one."""
        assert self.ring.used == self.model_used() and self.ring.head == self.head
        position = self.ring.tail
        for entry in self.committed_prefix():
            assert entry.position == position
            data, position, is_truncated = self.ring.peek(position)
            assert (data, position, is_truncated) == (
                entry.data, entry.position + entry.span, entry.is_truncated)
        if len(self.committed_prefix()) < len(self.model):
            assert self.ring.peek(position) is None

    @invariant()
    def free_memory_is_zeroed(self):
        """The free part of the ring contains only zeros."""
        assert self.ring.is_zero(self.ring.head, self.ring.tail + CAPACITY)


@pytest.mark.slow
def test_ring_matches_its_model(ring_ops, monkeypatch):
    """No sequence of operations makes the ring differ from its model."""
    monkeypatch.setattr(RingMachine, "make_ring", ring_ops.PyRing)
    run_state_machine_as_test(RingMachine, settings=settings(
        max_examples=150, stateful_step_count=40, deadline=None, derandomize=True,
        database=None, suppress_health_check=list(HealthCheck)))
