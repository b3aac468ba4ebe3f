# cython: language_level=3, freethreading_compatible=True
"""Reports on an engine: its counters, outages that began or ended, and records that were lost.

Imported by the first flush, close, outage or stats(). No record passes through here.
"""
cimport cython
from libc.stdint cimport uint64_t

from fastlog._backend.atomics cimport (exchange_seq_cst, load_acquire, load_relaxed,
                                       store_relaxed)
from fastlog._backend.counters cimport EVICTED, FULL, LOSSES, SEVERITIES, UNSENDABLE, sum_losses
from fastlog._backend.writer cimport Writer
from fastlog._core cimport Engine, engine_writer


cdef list read_losses(Writer *writer):
    """Return the count of each loss, at index reason * SEVERITIES + severity."""
    return [load_acquire(&writer.counters.lost[i]) for i in range(LOSSES * SEVERITIES)]


def counters(Engine engine):
    """Return the counters as a dict with the names of fastlog.Stats. Takes no lock.

    "losses" is a list of counts, at index reason * 8 + severity. fastlog._core.LOSS_REASONS numbers
    the reasons.
    """
    cdef Writer *writer = engine_writer(engine)
    # In this order: see counters.pxd.
    cdef uint64_t sent = load_acquire(&writer.counters.sent.value)
    cdef list losses = read_losses(writer)
    cdef uint64_t accepted = load_relaxed(&writer.counters.accepted.value)
    cdef uint64_t dropped = sum(losses[:EVICTED * SEVERITIES])
    cdef uint64_t discarded = sum(losses[EVICTED * SEVERITIES:])
    cdef uint64_t tail = load_acquire(&writer.ring.positions.tail.value)
    cdef uint64_t used = load_relaxed(&writer.ring.positions.head.value) - tail
    return dict(
        submitted=accepted + dropped,
        accepted=accepted,
        sent=sent,
        dropped=dropped,
        discarded=discarded,
        pending=accepted - sent - discarded,
        pending_bytes=used,
        high_watermark=max(load_relaxed(&writer.counters.high_watermark), used),
        capacity=engine.capacity,
        truncated=load_relaxed(&writer.counters.truncated),
        reconnects=load_relaxed(&writer.counters.reconnects),
        send_errors=load_relaxed(&writer.counters.send_errors),
        last_errno=load_relaxed(&writer.counters.last_errno),
        wakeups=load_relaxed(&writer.counters.wakeups),
        stalled=bool(load_relaxed(&writer.stalled.value)),
        losses=losses)


def connect_outcomes(Engine engine):
    """Return whether a connect has succeeded, perhaps in a parent, and whether one has failed."""
    cdef Writer *writer = engine_writer(engine)
    cdef bint failed = load_relaxed(&writer.counters.send_errors) > 0
    engine.was_reached(writer)
    return engine.connected_once, failed


def poll_outage(Engine engine):
    """Return the outage that began or ended since the last call, or None.

    It is a tuple (ended, lost, errno). `ended` is true if records are sent again. `lost` is the
    number of records dropped or discarded since the last outage ended. `errno` is that of the last
    failed connect or send. Thread-safe: each change is returned to one caller only.
    """
    cdef Writer *writer = engine_writer(engine)
    cdef uint64_t epoch, reported, lost, newly_lost
    with cython.critical_section(engine):
        epoch = load_relaxed(&writer.outage_epoch.value)
        reported = load_relaxed(&engine.reported_epoch)
        if epoch == reported:
            return None
        lost = sum_losses(&writer.counters, FULL, UNSENDABLE)
        newly_lost = lost - engine.reported_lost
        store_relaxed(&engine.reported_epoch, epoch)
        if epoch % 2 == 0:
            engine.reported_lost = lost
    if reported % 2 == 0 and epoch % 2 == 0 and newly_lost == 0:
        return None               # began and ended between two polls, and nothing was lost
    return epoch % 2 == 0, newly_lost, load_relaxed(&writer.counters.last_errno)


def collect_losses(Engine engine, bint during_outage):
    """Return the losses since the last call, or None: (counts, first, last).

    `counts` is laid out as in counters(). `first` and `last` are the times of the first and
    the last loss, in seconds since the epoch. Unless `during_outage`, an outage has to end before
    its losses are returned. Thread-safe: each loss is returned to one caller only.
    """
    cdef Writer *writer = engine_writer(engine)
    if load_relaxed(&writer.outage_epoch.value) & 1 and not during_outage:
        return None
    cdef list losses, reported
    cdef uint64_t first, last
    with cython.critical_section(engine):
        first = exchange_seq_cst(&writer.counters.first_loss, 0)
        last = load_relaxed(&writer.counters.last_loss)
        losses = read_losses(writer)
        reported = engine.reported_losses or [0] * len(losses)
        engine.reported_losses = losses
    counts = [total - before for total, before in zip(losses, reported)]
    return (counts, (first or last) / 1e9, last / 1e9) if any(counts) else None
