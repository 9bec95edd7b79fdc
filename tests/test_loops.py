"""One cancellation, exactly one, on both loops; and calls from other threads."""

import asyncio
import threading
from contextlib import suppress

import anyio
import pytest
from anyio.lowlevel import current_token

from dashws_async.loops import (
    SPIN,
    Ended,
    backend_name,
    call_soon,
    is_cancelled,
    own_tasks,
    owned_run,
    run_on,
)

pytestmark = pytest.mark.anyio


class Owned:
    """A coroutine in an `OwnedRun`, in a task of its own, with its outcome."""

    def __init__(self, tasks, function):
        self.run = owned_run()
        self.outcome = None
        self.started = anyio.Event()
        self.ended = anyio.Event()
        tasks.start_soon(self._run, function)

    async def _run(self, function):
        try:
            self.outcome = await self.run.run(function(self.started))
        except Ended:
            self.outcome = "ended by its owner"
        except Exception as error:
            self.outcome = error
        finally:
            self.ended.set()


async def end_of(owned):
    with anyio.fail_after(5):
        await owned.ended.wait()
    return owned.outcome


async def end_of_cancelled(function):
    """What becomes of a coroutine that gets one cancellation once it waits."""
    async with anyio.create_task_group() as tasks:
        owned = Owned(tasks, function)
        await owned.started.wait()
        await anyio.wait_all_tasks_blocked()
        owned.run.cancel()
        return await end_of(owned)


async def seen_when_cancelled(seen):
    try:
        await anyio.sleep_forever()
    finally:
        seen.append(is_cancelled())


async def test_a_cancel_scope_cancels_the_task_until_it_has_ended(anyio_backend):
    seen = [is_cancelled()]
    with anyio.move_on_after(0.01):
        await seen_when_cancelled(seen)
    seen.append(is_cancelled())
    assert seen == [False, True, False]


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_an_asyncio_task_is_cancelled_and_who_awaits_it_is_not(anyio_backend):
    seen = []
    task = asyncio.create_task(seen_when_cancelled(seen))
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        seen.append(is_cancelled())
    assert seen == [True, False]


async def test_the_result_is_the_coroutines(anyio_backend):
    async def answer():
        await anyio.sleep(0)
        return 42

    assert backend_name() == anyio_backend
    assert await owned_run().run(answer()) == 42


async def test_an_exception_passes():
    async def fail():
        raise LookupError("x")

    with pytest.raises(LookupError):
        await owned_run().run(fail())


async def test_a_cancellation_is_the_loops_own_and_the_cleanups_awaits_work():
    seen = []

    async def work(started):
        try:
            started.set()
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            await anyio.sleep(0.01)
            await anyio.lowlevel.checkpoint()
            seen.append("cleaned up")
            raise

    assert await end_of_cancelled(work) == "ended by its owner"
    assert seen == ["cleaned up"]


async def test_a_swallowed_cancellation_is_over_and_another_one_is_another():
    caught = []

    async def work(started):
        started.set()
        for number in range(2):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                caught.append(number)
                again.set()
        await anyio.sleep(0.01)
        return "done"

    async with anyio.create_task_group() as tasks:
        again = anyio.Event()
        owned = Owned(tasks, work)
        await owned.started.wait()
        owned.run.cancel()
        await again.wait()
        await anyio.wait_all_tasks_blocked()
        assert caught == [0]
        owned.run.cancel()
        assert await end_of(owned) == "done"
    assert caught == [0, 1]


async def test_it_reaches_a_task_that_is_never_blocked():
    async def spin(started):
        started.set()
        while True:
            await anyio.sleep(0)

    async with anyio.create_task_group() as tasks:
        owned = Owned(tasks, spin)
        await owned.started.wait()
        for _ in range(3):
            await anyio.sleep(0)
        owned.run.cancel()
        assert await end_of(owned) == "ended by its owner"


@pytest.mark.parametrize("with_child", [False, True])
async def test_it_leaves_through_a_task_group(with_child):
    seen = []

    async def work(started):
        async with anyio.create_task_group() as inner:
            if with_child:
                inner.start_soon(anyio.sleep_forever)
            started.set()
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                # With a child, a trio nursery is itself cancelled by now.
                if not with_child:
                    await anyio.sleep(0.01)
                seen.append("cleaned up")
                raise
        return "the task group kept the cancellation to itself"

    assert await end_of_cancelled(work) == "ended by its owner"
    assert seen == ["cleaned up"]


async def test_the_cleanups_awaits_work_behind_a_task_group_that_waits_for_its_children():
    seen = []

    async def work(started):
        try:
            async with anyio.create_task_group() as inner:
                inner.start_soon(anyio.sleep_forever)
                started.set()
        except anyio.get_cancelled_exc_class():
            await anyio.sleep(0.01)
            seen.append("cleaned up")
            raise

    assert await end_of_cancelled(work) == "ended by its owner"
    assert seen == ["cleaned up"]


@pytest.mark.parametrize("way", ["cancelled by itself", "child fails", "time limit"])
async def test_cleanup_may_use_a_task_group_of_its_own(way):
    async def work(started):
        started.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            with suppress(ExceptionGroup), anyio.move_on_after(0.01):
                async with anyio.create_task_group() as own:
                    own.start_soon(fail if way == "child fails" else anyio.sleep_forever)
                    if way == "cancelled by itself":
                        await anyio.sleep(0)
                        own.cancel_scope.cancel()
            await anyio.sleep(0.001)
            return "cleaned up"

    async def fail():
        raise ValueError

    assert await end_of_cancelled(work) == "cleaned up"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cleanup_may_use_asyncios_task_group():
    async def work(started):
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            with suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as own:
                    own.create_task(fail())
                    await asyncio.sleep(60)
            await asyncio.sleep(0.001)
            return "cleaned up"

    async def fail():
        raise ValueError

    assert await end_of_cancelled(work) == "cleaned up"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_whoever_cancels_the_task_ends_it_and_harms_no_neighbour():
    async def work(started):
        nonlocal task
        task = asyncio.current_task()
        started.set()
        await asyncio.sleep(60)

    task = None
    async with anyio.create_task_group() as tasks:
        owned = Owned(tasks, work)
        await owned.started.wait()
        task.cancel()
        assert await end_of(owned) == "ended by its owner"


async def test_an_abandoned_coroutine_leaves_its_task_groups_in_order():
    seen = []

    async def child():
        try:
            await anyio.sleep_forever()
        finally:
            seen.append("child")

    async def work(started):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            await anyio.sleep(0)
            started.set()
            while True:
                with suppress(anyio.get_cancelled_exc_class()):
                    await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        owned = Owned(tasks, work)
        await owned.started.wait()
        owned.run.cancel()
        await anyio.wait_all_tasks_blocked()
        owned.run.abandon()
        assert await end_of(owned) == "ended by its owner"
        assert seen == ["child"]


async def test_a_coroutine_that_swallows_in_a_cancelled_task_group_does_not_spin(anyio_backend):
    cancelled = []

    async def work(started):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            await anyio.sleep(0)
            started.set()
            while True:
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    cancelled.append(anyio.current_time())

    async with anyio.create_task_group() as tasks:
        owned = Owned(tasks, work)
        await owned.started.wait()
        owned.run.cancel()
        with anyio.fail_after(5):
            await anyio.wait_all_tasks_blocked()
        # asyncio cancels the task alone; trio the nursery, which then cancels at every await.
        assert len(cancelled) == (1 if anyio_backend == "asyncio" else SPIN)
        owned.run.abandon()
        assert await end_of(owned) == "ended by its owner"


async def test_a_coroutine_that_swallows_whatever_comes_is_closed():
    async def work(started):
        started.set()
        while True:
            try:
                await anyio.sleep_forever()
            except BaseException as error:
                if isinstance(error, GeneratorExit):
                    raise

    async with anyio.create_task_group() as tasks:
        owned = Owned(tasks, work)
        await owned.started.wait()
        owned.run.abandon()
        await anyio.wait_all_tasks_blocked()
        owned.run.abandon()
        assert await end_of(owned) == "ended by its owner"


async def test_an_abandoned_coroutine_is_closed_whatever_it_does():
    seen = []

    async def work(started):
        started.set()
        try:
            while True:
                with suppress(anyio.get_cancelled_exc_class()):
                    await anyio.sleep_forever()
                    await anyio.sleep(0)
        finally:
            seen.append("closed")

    async with anyio.create_task_group() as tasks:
        owned = Owned(tasks, work)
        await owned.started.wait()
        owned.run.cancel()
        await anyio.wait_all_tasks_blocked()
        assert seen == []
        owned.run.abandon()
        assert await end_of(owned) == "ended by its owner"
    assert seen == ["closed"]


async def test_time_limits_inside_still_work():
    async def work(started):
        with anyio.move_on_after(0.01):
            await anyio.sleep_forever()
        started.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(0.01) as limit:
                await anyio.sleep_forever()
            return "cleaned up within the limit" if limit.cancelled_caught else "?"

    assert await end_of_cancelled(work) == "cleaned up within the limit"


async def test_what_is_cancelled_around_the_owner_of_tasks_does_not_reach_them():
    outcomes = []

    async def work():
        await go_on.wait()
        outcomes.append("ended by itself")

    async def own():
        async with own_tasks(outcomes.append) as tasks:
            tasks.start_soon(work, name="work")
            started.set()
            await anyio.sleep_forever()

    started, go_on = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as outer:
        outer.start_soon(own)
        await started.wait()
        outer.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
            assert outcomes == []
            go_on.set()
    assert outcomes == ["ended by itself"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_cancels_the_owner_of_tasks_waits_for_them():
    async def own():
        async with own_tasks(print) as tasks:
            tasks.start_soon(go_on.wait, name="work")

    go_on = anyio.Event()
    owner = asyncio.create_task(own())
    await anyio.wait_all_tasks_blocked()
    for _ in range(2):
        owner.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not owner.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await owner


async def test_a_task_that_fails_is_reported_and_harms_no_other():
    outcomes = []

    def failed(error):
        outcomes.append(error)
        reported.set()

    async def fail():
        raise failure

    async def wait():
        await reported.wait()
        outcomes.append("ended by itself")

    failure, reported = LookupError(), anyio.Event()
    async with own_tasks(failed) as tasks:
        tasks.start_soon(wait, name="other")
        tasks.start_soon(fail, name="failing")
    assert outcomes == [failure, "ended by itself"]


async def test_one_task_can_be_cancelled():
    ended = []

    async def work():
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    async with own_tasks(ended.append) as tasks:
        task = tasks.start_soon(work, name="work")
        await anyio.wait_all_tasks_blocked()
        task.cancel()
    assert ended == ["cancelled"]


async def test_cancel_before_the_start_and_after_the_end_does_nothing():
    run = owned_run()
    run.cancel()

    async def work():
        await anyio.sleep(0)
        return 1

    assert await run.run(work()) == 1
    run.cancel()
    await anyio.sleep(0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_stray_cancelled_error_is_an_error_and_harms_no_neighbour():
    async def work(started):
        started.set()
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with anyio.create_task_group() as tasks:
        owned = Owned(tasks, work)
        outcome = await end_of(owned)
    assert isinstance(outcome, RuntimeError)
    assert "nobody cancelled it" in str(outcome)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_timeouts_work_in_cleanup():
    async def work(started):
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(60)
            except TimeoutError:
                return "timed out"

    assert await end_of_cancelled(work) == "timed out"


async def test_a_thread_can_have_the_loop_make_calls_in_order():
    token, calls, done = current_token(), [], anyio.Event()

    def in_thread():
        for number in range(100):
            call_soon(token, lambda number=number: calls.append(number))
        call_soon(token, done.set)

    thread = threading.Thread(target=in_thread)
    thread.start()
    with anyio.fail_after(5):
        await done.wait()
    thread.join()
    assert calls == list(range(100))


async def test_a_thread_gets_the_result_or_the_exception_of_its_call():
    token = current_token()

    def work():
        assert run_on(token, threading.get_ident, 5) == loop_thread
        with pytest.raises(ZeroDivisionError):
            run_on(token, lambda: 1 / 0, 5)
        return "done"

    loop_thread = threading.get_ident()
    assert await anyio.to_thread.run_sync(work) == "done"


def test_a_loop_that_has_ended_says_so(anyio_backend):
    async def token():
        return current_token()

    ended = anyio.run(token, backend=anyio_backend)
    with pytest.raises(RuntimeError):
        run_on(ended, int, 1)
