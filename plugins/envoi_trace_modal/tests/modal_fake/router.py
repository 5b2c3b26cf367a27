"""The router of commands: what the SDK speaks to for `exec` and `filesystem`."""

# ruff: noqa: N802 - methods are named as the RPCs

from __future__ import annotations

from typing import Any

from grpclib import GRPCError, Status
from modal_fake.boxes import Process
from modal_fake.state import State
from modal_proto import task_command_router_pb2 as tcr


class Router:
    """Its handlers."""

    def __init__(self, state: State) -> None:
        self.state = state

    def _process(self, request: Any) -> Process:
        found = self.state.of_task(request.task_id).box.processes.get(request.exec_id)
        if found is None:
            raise GRPCError(Status.NOT_FOUND, f"no exec {request.exec_id}")
        return found

    async def TaskExecStart(self, stream: Any) -> None:
        request = await stream.recv_message()
        box = self.state.of_task(request.task_id).box
        try:
            await box.exec(
                request.exec_id,
                list(request.command_args),
                cwd=request.workdir,
                env=self.state.variables(request.secret_sources),
                timeout_s=request.timeout_secs or None,
            )
        except ConnectionError as error:
            raise GRPCError(Status.NOT_FOUND, "Sandbox has already shut down") from error
        except (OSError, ValueError) as error:
            raise GRPCError(Status.INVALID_ARGUMENT, f"can't start {request.command_args[0]!r}: {error}") from error
        await stream.send_message(tcr.TaskExecStartResponse())

    async def TaskExecStdioRead(self, stream: Any) -> None:
        request = await stream.recv_message()
        process = self._process(request)
        is_stdout = request.file_descriptor == tcr.TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDOUT
        async for chunk in (process.out if is_stdout else process.err).read_from(request.offset):
            await stream.send_message(tcr.TaskExecStdioReadResponse(data=chunk))

    async def TaskExecStdinWrite(self, stream: Any) -> None:
        request = await stream.recv_message()
        process = self._process(request)
        if process.done.is_set():
            raise GRPCError(Status.FAILED_PRECONDITION, "process has exited")
        data = request.data[max(0, process.fed_bytes - request.offset) :]  # a repeated call sends bytes again
        await process.feed(data, ends=request.eof)
        await stream.send_message(tcr.TaskExecStdinWriteResponse())

    async def TaskExecStdinWriteStream(self, stream: Any) -> None:
        process: Process | None = None
        async for message in stream:
            kind = message.WhichOneof("payload")
            if kind == "start":
                process = self._process(message.start)
            elif process is not None:
                await process.feed(message.data if kind == "data" else b"", ends=kind != "data")
        await stream.send_message(tcr.TaskExecStdinWriteStreamResponse())

    async def TaskExecStdinStatus(self, stream: Any) -> None:
        process = self._process(await stream.recv_message())
        answer = tcr.TaskExecStdinStatusResponse(num_bytes_written=process.fed_bytes, closed=process.is_input_closed)
        await stream.send_message(answer)

    async def TaskExecWait(self, stream: Any) -> None:
        request = await stream.recv_message()
        process = self._process(request)
        await process.done.wait()
        self.state.of_task(request.task_id)  # it may be over
        await stream.send_message(tcr.TaskExecWaitResponse(**_exit(process)))

    async def TaskExecPoll(self, stream: Any) -> None:
        process = self._process(await stream.recv_message())
        await stream.send_message(tcr.TaskExecPollResponse(**_exit(process)))


def _exit(process: Process) -> dict[str, int]:
    if process.exit_code is None:
        return {}
    return {"code": process.exit_code} if process.exit_code >= 0 else {"signal": -process.exit_code}
