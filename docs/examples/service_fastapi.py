"""A FastAPI service: a bus for its lifetime, an event a request, and a page that follows what happens.

`uvicorn service_fastapi:app`; the tests use it by `fastapi.testclient.TestClient`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from elastic_events import Event, EventBus, EventSource
from elastic_metrics import prof


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with EventBus("sqlite:///service.db") as bus:
        app.state.bus = bus
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/jobs/{job_id}")
@prof
async def submit(job_id: int) -> dict[str, int]:
    app.state.bus.bind(job_id=job_id).record(Event("job.submitted", EventSource.AGENT))
    return {"job_id": job_id}


@app.get("/jobs/{job_id}/end")
async def wait(job_id: int, timeout: float = 30) -> dict[str, object]:
    """Answer when the job has ended."""
    try:
        ended = await app.state.bus.next(
            "job.ended", where=lambda one: one.metadata["job_id"] == job_id, timeout=timeout
        )
    except TimeoutError:
        raise HTTPException(504, f"job {job_id} has not ended") from None
    return dict(ended.metadata)


@app.get("/events")
async def events() -> StreamingResponse:
    """Follow what happens, a line an event."""

    async def lines() -> AsyncIterator[str]:
        async with app.state.bus.listen("job.*") as records:
            async for one in records:
                yield f"{one.name} {dict(one.metadata)}\n"

    return StreamingResponse(lines(), media_type="text/plain")
