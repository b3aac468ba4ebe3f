"""Coroutines that log: with `drop_new` no call waits for the daemon, which would block the loop.

Run: python asyncio_app.py    (SYSLOG_SOCKET names another socket than /dev/log)
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
        overflow="drop_new")  # a full ring drops; "block" would wait while the daemon takes records
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(name)s: %(message)s")
    asyncio.run(main())
