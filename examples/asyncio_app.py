"""Coroutines that log. With `drop_new`, no call waits for the daemon and blocks the event loop.

Run: python asyncio_app.py    (set SYSLOG_SOCKET to use a socket other than /dev/log)
"""
import asyncio
import logging
import os

import fastlog

log = logging.getLogger("shop.orders")


async def serve(till, orders):
    while True:
        number = await orders.get()
        log.info("till %d: order %d paid", till, number)
        orders.task_done()


async def main():
    orders = asyncio.Queue()
    tills = [asyncio.create_task(serve(till, orders)) for till in range(4)]
    for number in range(100):
        orders.put_nowait(number)
    await orders.join()
    for till in tills:
        till.cancel()
    await asyncio.gather(*tills, return_exceptions=True)


if __name__ == "__main__":
    handler = fastlog.SysLogHandler(
        os.environ.get("SYSLOG_SOCKET"), "local0", ident="shop: ",
        overflow="drop_new")  # with "block", a call would wait for space in a full ring
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(name)s: %(message)s")
    asyncio.run(main())
