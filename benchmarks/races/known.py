"""Known races: small scenarios of plain asyncio that pass in its usual order, and fail in another order.

Each is written anew from a kind of fault that papers and bug reports describe; its docstring names it. The two lines
that race end with the comment `# races`. Nothing here knows a testing tool, so each tool can run each scenario.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


async def pause(turns: int = 1) -> None:
    """Give other tasks as many turns, as an answer from memory or a fast server does."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def lost_update() -> None:
    """Lose a deposit: both tasks read the balance before either writes it (the textbook read-modify-write)."""
    balance = 0

    async def deposit(amount: int, lookups: int) -> None:
        nonlocal balance
        await pause(lookups)
        seen = balance  # races
        await pause()
        balance = seen + amount  # races

    await asyncio.gather(deposit(10, 0), deposit(10, 3))
    assert balance == 20


async def check_then_act() -> None:
    """Fetch a value twice: the second task looks into the cache before the first has stored the value."""
    cache: dict[str, str] = {}
    fetched: list[str] = []

    async def get(key: str, lookups: int) -> str:
        await pause(lookups)
        if key not in cache:  # races
            fetched.append(key)
            await pause(2)
            cache[key] = key.upper()  # races
        return cache[key]

    await asyncio.gather(get("a", 0), get("a", 4))
    assert fetched == ["a"]


async def double_start() -> None:
    """Connect twice: a lazy client checks for its connection, and awaits before it keeps the new one."""

    class Client:
        connection: str | None = None
        opened = 0

        async def use(self, lookups: int) -> str:
            await pause(lookups)
            if self.connection is None:  # races
                self.opened += 1
                await pause()
                self.connection = f"connection {self.opened}"  # races
            return self.connection

    client = Client()
    await asyncio.gather(client.use(0), client.use(3))
    assert client.opened == 1


async def missed_wake_up() -> None:
    """Sleep for ever: the producer pulses the event after the consumer has looked, and before it waits."""
    items: list[str] = []
    arrived = asyncio.Event()

    async def consume() -> None:
        while not items:  # races
            await pause()
            await arrived.wait()
        items.pop()

    async def produce() -> None:
        await pause(3)
        items.append("item")  # races
        arrived.set()
        arrived.clear()

    await asyncio.gather(consume(), produce())


async def lock_order() -> None:
    """Deadlock: two transfers take the locks of the same two accounts in opposite order."""
    savings, checking = asyncio.Lock(), asyncio.Lock()

    async def transfer_to_savings() -> None:
        async with checking:
            await pause()
            async with savings:  # races
                await pause()

    async def transfer_to_checking() -> None:
        await pause(5)
        async with savings:
            await pause()
            async with checking:  # races
                await pause()

    await asyncio.gather(transfer_to_savings(), transfer_to_checking())


async def cancelled_before_release() -> None:
    """Leak a connection: the user is cancelled between taking it from the pool and the `try` that gives it back."""
    pool = ["connection"]

    async def query() -> None:
        connection = pool.pop()  # races
        await pause()
        try:
            await pause()
        finally:
            pool.append(connection)

    async def give_up(task: asyncio.Task[None]) -> None:
        await pause(6)
        task.cancel()  # races

    task = asyncio.create_task(query())
    await asyncio.gather(give_up(task), task, return_exceptions=True)
    assert pool == ["connection"]


async def stale_cache() -> None:
    """Keep an old value for ever: a reader stores what it has read after the writer has emptied the cache."""
    database = {"price": 1}
    cache: dict[str, int] = {}

    async def read() -> None:
        if "price" not in cache:
            price = database["price"]
            await pause()
            cache["price"] = price  # races

    async def write() -> None:
        await pause(3)
        database["price"] = 2
        cache.pop("price", None)  # races

    await asyncio.gather(read(), write())
    assert cache.get("price", 2) == 2


async def out_of_order_replies() -> None:
    """Show the results of an older search: its reply comes after that of the newer one."""

    class Page:
        shown = ""

        async def search(self, text: str, typed_after: int) -> None:
            await pause(typed_after)
            results = await self.ask(text)
            self.shown = results  # races

        async def ask(self, text: str) -> str:
            await pause(2)
            return f"results for {text}"

    page = Page()
    await asyncio.gather(page.search("as", 0), page.search("asyncio", 2))
    assert page.shown == "results for asyncio"


async def dirty_read() -> None:
    """See money twice or not at all: an audit adds up two accounts in the middle of a transfer."""
    accounts = {"a": 100, "b": 0}

    async def transfer() -> None:
        accounts["a"] -= 50  # races
        await pause()
        accounts["b"] += 50

    async def audit() -> None:
        await pause(4)
        assert sum(accounts.values()) == 100  # races

    await asyncio.gather(transfer(), audit())


async def changed_while_iterated() -> None:
    """Crash a broadcast: a client leaves while the loop over all clients waits for one of them."""
    clients = {"a": 0, "b": 0, "c": 0}

    async def broadcast() -> None:
        for client in clients:  # races
            await pause()
            clients[client] += 1

    async def leave() -> None:
        await pause(5)
        del clients["b"]  # races

    await asyncio.gather(broadcast(), leave())


async def use_after_close() -> None:
    """Use a closed session: the shutdown does not wait for a request that has begun."""

    class Session:
        is_open = True

        async def request(self) -> None:
            await pause(2)
            assert self.is_open  # races

        async def close(self) -> None:
            await pause(4)
            self.is_open = False  # races

    session = Session()
    await asyncio.gather(session.request(), session.close())


async def set_twice() -> None:
    """Answer twice: two servers see that the future is not done, and the second one sets a result again."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(name: str, distance: int) -> None:
        await pause(distance)
        if not answer.done():  # races
            await pause()
            answer.set_result(name)  # races

    await asyncio.gather(serve("near", 0), serve("far", 3))


async def write_skew() -> None:
    """Leave the ward without a doctor: each checks that another one is on call, and goes."""
    on_call = {"ann", "bob"}

    async def leave(name: str, shift: int) -> None:
        await pause(shift)
        if len(on_call) > 1:  # races
            await pause()
            on_call.discard(name)  # races

    await asyncio.gather(leave("ann", 0), leave("bob", 3))
    assert on_call


async def ready_too_early() -> None:
    """Read settings that are not loaded: the flag says "ready" before the work behind it is done."""
    settings: dict[str, str] = {}
    is_ready = False

    async def setting(name: str, lookups: int) -> str:
        nonlocal is_ready
        await pause(lookups)
        if not is_ready:
            is_ready = True  # races
            await pause(2)
            settings["color"] = "blue"
        return settings[name]  # races

    await asyncio.gather(setting("color", 0), setting("color", 4))


async def over_admission() -> None:
    """Let too many in: a limiter compares the count, and awaits before it counts."""
    inside = 0

    async def enter(arrival: int) -> None:
        nonlocal inside
        await pause(arrival)
        if inside < 1:  # races
            await pause()
            inside += 1  # races
            assert inside <= 1
            await pause()
            inside -= 1

    await asyncio.gather(enter(0), enter(4), enter(8))


async def same_top_again() -> None:
    """Corrupt a stack: its top is A again, but what lies below it has changed meanwhile (the ABA problem)."""
    below: dict[str, str | None] = {"a": "b", "b": None}
    top: str | None = "a"

    async def pop() -> str | None:
        nonlocal top
        while True:
            seen = top
            after = None if seen is None else below[seen]
            await pause()
            if top == seen:  # races
                top = after
                return seen

    async def pop_two_and_push_one() -> None:
        nonlocal top
        await pause(4)
        first, second = await pop(), await pop()
        await pause()
        if first is not None and second is not None:
            below[first], top = top, first  # races

    popped, _ = await asyncio.gather(pop(), pop_two_and_push_one())
    left = []
    while top is not None:
        left.append(top)
        top = below[top]
    assert popped not in left
    assert len(left) + (popped is not None) == len({popped, *left})


RACES: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    race.__name__: race
    for race in (
        *(lost_update, check_then_act, double_start, missed_wake_up, lock_order, cancelled_before_release),
        *(stale_cache, out_of_order_replies, dirty_read, changed_while_iterated, use_after_close, set_twice),
        *(write_skew, ready_too_early, over_admission, same_top_again),
    )
}
"""All races by their names."""
