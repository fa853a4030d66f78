"""Coroutines that several tests spawn."""

import asyncio

from spdkthread import aio


async def returning(value):
    return value


async def raising(error):
    raise error


async def for_ever(log):
    try:
        await aio.sleep_us(1e9)
    except asyncio.CancelledError:
        log.append("cancelled")
        raise
    finally:
        log.append("cleaned up")
