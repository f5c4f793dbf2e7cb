"""The client and its batches."""

from __future__ import annotations

import ctypes as c
import math
import operator
import os
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Type, Union

import numpy as np

from . import _library as lib
from ._errors import ATT_ECLOSED, ATT_EINVAL, ATT_ENOTFINITE, ATT_ETIMEOUT, Error, from_status

ArrayLike = Any  # numpy.typing.ArrayLike, which old NumPys lack

_WAITS = {"adaptive": 0, "spin": 1, "block": 2}
_PRECISIONS = ("single", "mixed", "double")
_MOST_COMPLETIONS = 256

SESSION_ANY = 2**64 - 1  #: a session of an id that nobody needs to know: exactly once while this client lives


class Answer(NamedTuple):
    """One entry of the output."""

    value: float
    error_bound: float  #: the true value is at most so far away
    lsn: int  #: every update up to this number is reflected


class Array(NamedTuple):
    """A row, a column, or everything."""

    values: np.ndarray  #: float64
    error_bound: Union[float, np.ndarray]  #: for all values together; of a column, one for each
    lsn: int


class Info(NamedTuple):
    """What a daemon serves. n_q, d, d_v and capacity are of each head."""

    heads: int
    n_q: int
    d: int
    d_v: int
    capacity: int
    precision: str
    scale: float
    incarnation: int  #: counts the daemon's starts on this state
    daemon_pid: int
    protocol: int


class Session(NamedTuple):
    """A session, and how far it has come. Its updates are numbered from 1, in the order in which they were called."""

    id: int
    begin: int  #: the newest update that had taken effect when the client connected; it is on disk
    last: int  #: the newest that this client has submitted, or begin


class Stat(NamedTuple):
    """The daemon's state, as `attnctl stat` prints it."""

    version: str
    name: str
    blas_kernel: str
    isa: str
    state: str  #: "serving", or "read-only: why"
    durability: str
    heads: int
    n_q: int
    n_k: int
    tokens: int
    d: int
    d_v: int
    capacity: int
    precision: str
    threads: int
    clients: int
    scale: float
    log_pending: int
    log_capacity: int
    rows_hot: int
    rows_cold: int
    generation: int
    merges: int
    refreshes: int
    updates: int
    queries: int
    lsn: int
    durable_lsn: int
    snapshot_lsn: int
    region_bytes: int
    rss_bytes: int
    incarnation: int


def _number(what: str, index: Any) -> int:
    """An index as the library takes it: 0 .. 2^32 - 1; Python's negative ones are not meant."""
    number = operator.index(index)
    if not 0 <= number < 2**32 - 1:
        raise from_status(4, f"{what} {number} is out of range")
    return number


def _floats(what: str, array: ArrayLike, columns: int) -> np.ndarray:
    """`columns` float32 in one piece: the array itself if it is that already."""
    floats = np.ascontiguousarray(array, dtype=np.float32)
    if floats.shape != (columns,):
        raise ATT_EINVAL(f"{what}: {columns} numbers are needed, not an array of shape {floats.shape}")
    return floats


def _bias(bias: float) -> np.ndarray:
    """One float32. A finite number that becomes -inf in it would mask the token, which nobody has asked for."""
    with np.errstate(over="ignore"):
        number = np.array([bias], dtype=np.float32)
    if math.isinf(number[0]) and math.isfinite(bias):
        raise ATT_ENOTFINITE(f"bias: {float(bias):g} is too large for float32")
    return number


def _space(out: Optional[np.ndarray], shape: Tuple[int, ...]) -> np.ndarray:
    """Where an answer goes."""
    if out is None:
        return np.empty(shape)
    if out.dtype != np.float64 or out.shape != shape or not out.flags.c_contiguous or not out.flags.writeable:
        raise ATT_EINVAL(f"out must be a writeable float64 array of shape {shape} in C order")
    return out


def socket_path(name: Optional[str] = None) -> str:
    """The default socket of a daemon's name."""
    path = c.create_string_buffer(4096)
    error = lib.Error()
    status = lib.library().att_socket_path(name.encode() if name is not None else None, path, len(path), c.byref(error))
    if status != lib.OK:
        raise from_status(status, error.text.decode(errors="replace"))
    return os.fsdecode(path.value)


class _Prepared:
    """A request, and what it points to, which must live as long as it does."""

    __slots__ = ("request", "kept", "space")

    def __init__(self, kind: int, head: int = 0, index: Any = 0, column: Any = 0, number: float = 0.0,
                 durable: bool = False) -> None:
        self.request = lib.Request(type=kind, head=_number("head", head), index=_number("index", index),
                                   column=_number("column", column), number=number, durable=durable)
        self.kept: List[np.ndarray] = []
        self.space: Optional[np.ndarray] = None

    def point(self, field: str, floats: np.ndarray) -> None:
        self.kept.append(floats)
        setattr(self.request, field, floats.ctypes.data)

    def receive(self, space: np.ndarray) -> None:
        self.space = space
        self.request.buffer = space.ctypes.data
        self.request.buffer_bytes = space.nbytes

    def result(self, done: lib.Completion) -> Any:
        """What a call returns."""
        kind = self.request.type
        if kind == lib.QUERY:
            return Answer(done.value, done.error_bound, done.lsn)
        if kind == lib.COLUMN:
            assert self.space is not None
            return Array(self.space[:, 0], self.space[:, 1], done.lsn)
        if kind in (lib.ROW, lib.ALL):
            assert self.space is not None
            return Array(self.space, done.error_bound, done.lsn)
        if kind == lib.APPEND:
            return done.index
        return done.lsn


class _Requests:
    """The operations, as a client carries them out and a batch collects them."""

    _shape: Info  # which never changes: a daemon of another shape is refused

    def _do(self, prepared: _Prepared) -> Any:
        raise NotImplementedError

    # ---- Reading

    def query(self, row: int, column: int, *, head: int = 0, durable: bool = False) -> Any:
        """O[row][column]: an Answer. `durable` waits until what it reflects is on disk.

        Raises ATT_EMPTY for a row that sees no token, ATT_ERANGE."""
        return self._do(_Prepared(lib.QUERY, head, row, column, durable=durable))

    def row(self, row: int, *, head: int = 0, durable: bool = False, out: Optional[np.ndarray] = None) -> Any:
        """A row of the output: an Array of d_v values, into `out` if it is given (float64)."""
        prepared = _Prepared(lib.ROW, head, row, durable=durable)
        prepared.receive(_space(out, (self._shape.d_v,)))
        return self._do(prepared)

    def column(self, column: int, *, head: int = 0) -> Any:
        """A column of the output: an Array of n_q values and as many error bounds; NaN for a row without tokens."""
        prepared = _Prepared(lib.COLUMN, head, 0, column)
        prepared.receive(np.empty((self._shape.n_q, 2)))
        return self._do(prepared)

    # ---- Changing; all return the update's LSN, but append

    def update_k(self, token: int, column: int, delta: float, *, head: int = 0) -> Any:
        """K[token][column] += delta."""
        return self._do(_Prepared(lib.UPDATE_K, head, token, column, float(delta)))

    def update_v(self, token: int, column: int, delta: float, *, head: int = 0) -> Any:
        """V[token][column] += delta."""
        return self._do(_Prepared(lib.UPDATE_V, head, token, column, float(delta)))

    def set_token(self, token: int, *, key: Optional[ArrayLike] = None, value: Optional[ArrayLike] = None,
                  bias: Optional[float] = None, head: int = 0) -> Any:
        """Replaces what is given of a token's key, value and bias (-inf masks it), all at once."""
        prepared = _Prepared(lib.SET_TOKEN, head, token)
        self._give(prepared, key, value, bias)
        if not prepared.kept:
            raise ATT_EINVAL("set_token: give key, value or bias")
        return self._do(prepared)

    def set_query(self, row: int, query: ArrayLike, *, head: int = 0) -> Any:
        """Replaces a row of Q."""
        prepared = _Prepared(lib.SET_Q, head, row)
        prepared.point("key", _floats("query", query, self._shape.d))
        return self._do(prepared)

    def append(self, key: ArrayLike, value: ArrayLike, bias: Optional[float] = None, *, head: int = 0) -> Any:
        """Adds a token; its index. Raises ATT_ECAPACITY when there is no room."""
        prepared = _Prepared(lib.APPEND, head)
        self._give(prepared, key, value, bias)
        return self._do(prepared)

    def delete(self, token: int, *, head: int = 0) -> Any:
        """Deletes a token; its index stays unused until an append takes it."""
        return self._do(_Prepared(lib.DELETE, head, token))

    def _give(self, prepared: _Prepared, key: Optional[ArrayLike], value: Optional[ArrayLike],
              bias: Optional[float]) -> None:
        if key is not None:
            prepared.point("key", _floats("key", key, self._shape.d))
        if value is not None:
            prepared.point("value", _floats("value", value, self._shape.d_v))
        if bias is not None:
            prepared.point("bias", _bias(bias))


class Client(_Requests):
    """A connection to a daemon of this machine. One thread at a time may use it.

    socket: the socket's path; or name: the daemon's name (default: "default").
    timeout: seconds, for connecting and for every call.
    wait: "adaptive", "spin" or "block": how to wait for answers.
    direct: answer query and row from the daemon's memory, without a request (ATT_EPERM if the daemon does not allow it).
    reconnect: after a restart of the daemon, connect again with the next call.
    session: has every update take effect exactly once, whatever crashes: updates go on across a restart of the daemon. A
    number of the program's own (not 0), the same each time it starts: `client.session.begin` then says which update was the last
    to take effect; or SESSION_ANY. Raises ATT_EFENCED once another client has it, ATT_EEXPIRED, ATT_ESHAPE, ATT_LOST.
    resume: the daemon must know the session already (else ATT_EEXPIRED).

    Use it in a `with` statement, or close it."""

    def __init__(self, socket: Union[str, "os.PathLike[str]", None] = None, *, name: Optional[str] = None,
                 timeout: float = 10.0, wait: str = "adaptive", direct: bool = False, reconnect: bool = True,
                 session: Optional[int] = None, resume: bool = False) -> None:
        self._handle: Optional[c.c_void_p] = None
        self._pending: Dict[int, Pending] = {}
        self._next_tag = 1
        if wait not in _WAITS:
            raise ATT_EINVAL(f"wait: {wait!r} is none of {', '.join(_WAITS)}")
        if not 0.001 <= timeout <= 4e6:
            raise ATT_EINVAL(f"timeout: {timeout} seconds make no sense")
        if session is not None and not 0 < operator.index(session) <= SESSION_ANY:
            raise ATT_EINVAL(f"session: {session} is not a number from 1 to 2^64 - 1")
        if resume and session is None:
            raise ATT_EINVAL("resume: of which session?")
        self._timeout = timeout
        self._direct = direct
        self._lib = lib.library()
        options = lib.ConnectOptions(socket=os.fsencode(socket) if socket is not None else None,
                                     name=name.encode() if name is not None else None,
                                     timeout_ms=int(timeout * 1000), wait=_WAITS[wait], direct=direct,
                                     stay_closed=not reconnect, resume=resume, session=session or 0)
        handle = c.c_void_p()
        error = lib.Error()
        status = self._lib.att_connect(c.byref(options), c.byref(handle), c.byref(error))
        if status != lib.OK:
            raise from_status(status, error.text.decode(errors="replace"))
        self._handle = handle
        self._shape = self.info

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()

    def __repr__(self) -> str:
        return "<attn.Client, closed>" if self._handle is None else f"<attn.Client, {self.info}>"

    def close(self) -> None:
        """Closes the connection; what is in flight may or may not take effect. May be called twice. Does not wait for
        the disk: flush() first."""
        if self._handle is not None:
            self._lib.att_close(self._handle)
            self._handle = None
            for pending in self._pending.values():
                pending._fail(ATT_ECLOSED("the client was closed"))
            self._pending.clear()

    def _open(self) -> c.c_void_p:
        if self._handle is None:
            raise ATT_ECLOSED("the client is closed")
        return self._handle

    def _message(self) -> str:
        return (self._lib.att_last_error(self._handle) or b"").decode(errors="replace")

    def _do(self, prepared: _Prepared) -> Any:
        handle = self._open()
        done = lib.Completion()
        if self._direct and prepared.request.type in (lib.QUERY, lib.ROW):
            status = self._lib.att_call_direct(handle, c.byref(prepared.request), c.byref(done))
        else:
            status = self._lib.att_call(handle, c.byref(prepared.request), c.byref(done))
        if status != lib.OK:
            raise from_status(status, "" if status == lib.EMPTY else self._message())
        return prepared.result(done)

    @property
    def info(self) -> Info:
        """What is served."""
        raw = lib.Info()
        self._lib.att_get_info(self._open(), c.byref(raw))
        fields = {name: getattr(raw, name) for name in Info._fields}
        fields["precision"] = _PRECISIONS[raw.precision] if raw.precision < len(_PRECISIONS) else "unknown"
        return Info(**fields)

    @property
    def session(self) -> Optional[Session]:
        """The client's session; None without one."""
        raw = lib.SessionInfo()
        self._lib.att_get_session(self._open(), c.byref(raw))
        return Session(raw.id, raw.begin, raw.last) if raw.id else None

    def stat(self) -> Stat:
        """The daemon's state."""
        raw = lib.Stat()
        prepared = _Prepared(lib.STAT)
        prepared.request.buffer = c.addressof(raw)
        prepared.request.buffer_bytes = c.sizeof(raw)
        self._do(prepared)
        fields = {name: getattr(raw, name) for name in Stat._fields}
        for name, value in fields.items():
            if isinstance(value, bytes):
                fields[name] = value.decode(errors="replace")
        fields["precision"] = _PRECISIONS[raw.precision] if raw.precision < len(_PRECISIONS) else "unknown"
        return Stat(**fields)

    def all(self, *, head: Optional[int] = None, out: Optional[np.ndarray] = None) -> Array:
        """The whole output: n_q x d_v values. Where there are several heads and none is named, heads x n_q x d_v; then
        each head is of one moment, but not all of the same, and the LSN is the smallest. NaN for rows without tokens.
        After a failure `out` may hold a part."""
        info = self._shape
        heads = [head] if head is not None else list(range(info.heads))
        space = _space(out, (len(heads), info.n_q, info.d_v) if head is None and info.heads > 1 else
                       (info.n_q, info.d_v))
        parts = space if space.ndim == 3 else space[np.newaxis]
        bound, lsn = 0.0, None
        for part, number in zip(parts, heads):
            prepared = _Prepared(lib.ALL, number)
            prepared.receive(part)
            answer = self._do(prepared)
            bound = max(bound, answer.error_bound)
            lsn = answer.lsn if lsn is None else min(lsn, answer.lsn)
        return Array(space, bound, lsn or 0)

    def flush(self) -> None:
        """Returns when everything acknowledged so far is on disk."""
        self._do(_Prepared(lib.FLUSH))

    def merge(self) -> None:
        """Merges what is pending."""
        self._do(_Prepared(lib.MERGE))

    def snapshot(self) -> None:
        """Writes a snapshot."""
        self._do(_Prepared(lib.SNAPSHOT))

    def shutdown(self) -> None:
        """Ends the daemon."""
        try:
            self._do(_Prepared(lib.SHUTDOWN))
        except ATT_ECLOSED:
            pass  # gone before its reply was read

    def ping(self) -> float:
        """A round trip, in seconds."""
        ns = c.c_uint64()
        status = self._lib.att_ping(self._open(), c.byref(ns))
        if status != lib.OK:
            raise from_status(status, self._message())
        return ns.value * 1e-9

    # ---- Many at once

    def batch(self) -> "Batch":
        """Many requests in flight at once: see Batch."""
        return Batch(self)

    def whole(self) -> "Whole":
        """Several requests as one: see Whole."""
        return Whole(self)

    def set_tokens(self, tokens: Sequence[int], *, keys: Optional[ArrayLike] = None,
                   values: Optional[ArrayLike] = None, biases: Optional[ArrayLike] = None, head: int = 0) -> None:
        """Replaces many tokens: row i of what is given belongs to tokens[i]. In one batch; not atomic."""
        arrays = {name: np.ascontiguousarray(array, dtype=None if name == "bias" else np.float32)
                  for name, array in (("key", keys), ("value", values), ("bias", biases)) if array is not None}
        for name, array in arrays.items():
            if len(array) != len(tokens):
                raise ATT_EINVAL(f"set_tokens: {len(tokens)} tokens, but {len(array)} rows of {name}")
        with self.batch() as batch:
            for i, token in enumerate(tokens):
                batch.set_token(token, head=head, **{name: array[i] for name, array in arrays.items()})

    def queries(self, rows: ArrayLike, columns: ArrayLike, *, head: int = 0) -> Array:
        """Many entries, rows[i] and columns[i] (either may be one number): values and bounds; NaN without tokens."""
        rows, columns = np.broadcast_arrays(np.asarray(rows), np.asarray(columns))
        with self.batch() as batch:
            batch.raises_empty = False
            pending = [batch.query(row, column, head=head) for row, column in zip(rows.ravel(), columns.ravel())]
        answers = [Answer(np.nan, np.nan, 0) if isinstance(one.error, Error) else one.result() for one in pending]
        return Array(np.array([answer.value for answer in answers]).reshape(rows.shape),
                     np.array([answer.error_bound for answer in answers]).reshape(rows.shape),
                     min((answer.lsn for answer in answers if answer.lsn), default=0))

    def _submit(self, prepared: _Prepared) -> "Pending":
        pending = Pending(prepared)
        prepared.request.tag = self._next_tag
        self._until_room(lambda handle: self._lib.att_submit(handle, c.byref(prepared.request)))
        self._pending[self._next_tag] = pending
        self._next_tag += 1
        return pending

    def _submit_whole(self, several: List["Pending"]) -> None:
        requests = (lib.Request * len(several))(*[pending._prepared.request for pending in several])
        for i, request in enumerate(requests):
            request.tag = self._next_tag + i
        self._until_room(lambda handle: self._lib.att_submit_batch(handle, requests, len(several)))
        self._pending.update((request.tag, pending) for request, pending in zip(requests, several))
        self._next_tag += len(several)

    def _until_room(self, submit: Callable[[Any], int]) -> None:
        while True:
            status = submit(self._open())
            if status != lib.EBUSY:
                break
            self._take(self._timeout)
        if status != lib.OK:
            raise from_status(status, self._message())

    def _take(self, timeout: float) -> None:
        """Takes completions; at least one, or an exception."""
        space = (lib.Completion * _MOST_COMPLETIONS)()
        count = self._lib.att_complete(self._open(), space, _MOST_COMPLETIONS, max(1, int(timeout * 1000)))
        if count == 0:
            raise ATT_ETIMEOUT(f"no reply in {timeout:g} s")
        if count < 0:
            for pending in self._pending.values():
                pending._fail(ATT_ECLOSED(self._message()))
            self._pending.clear()
            return
        for done in space[:count]:
            pending = self._pending.pop(done.tag, None)
            if pending is not None:
                pending._complete(done, self._message() if count == 1 else "")


class Pending:
    """A request of a batch: its result, once the batch has ended."""

    __slots__ = ("_prepared", "_result", "error", "done")

    def __init__(self, prepared: _Prepared) -> None:
        self._prepared = prepared
        self._result: Any = None
        self.error: Optional[Error] = None  #: what went wrong
        self.done = False

    def _complete(self, done: lib.Completion, message: str) -> None:
        self.done = True
        if done.status == lib.OK:
            self._result = self._prepared.result(done)
        else:
            self.error = from_status(done.status, "" if done.status == lib.EMPTY else message)

    def _fail(self, error: Error) -> None:
        self.done = True
        self.error = error

    def result(self) -> Any:
        """What the client's call of the same name returns, or its exception."""
        if self.error is not None:
            raise self.error
        if not self.done:
            raise RuntimeError("the batch has not ended")
        return self._result


class Batch(_Requests):
    """Collects requests of a client, all in flight at once, in their order:

        with client.batch() as batch:
            answers = [batch.query(row, 0) for row in range(100)]
        print(sum(answer.result().value for answer in answers))

    Every operation of the client that reads or changes is there (not `all`), and returns a Pending. The end of the `with`
    waits for them, and raises the first exception, ATT_EMPTY only if raises_empty is left True. Arrays that are given
    are copied by the call. A read reflects every request before it, and may reflect later ones."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._submitted: List[Pending] = []
        self.raises_empty = True
        self._shape = client._shape

    def _do(self, prepared: _Prepared) -> Pending:
        pending = self._client._submit(prepared)
        prepared.kept.clear()  # copied
        self._submitted.append(pending)
        return pending

    def __len__(self) -> int:
        return len(self._submitted)

    def __enter__(self) -> "Batch":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Any) -> None:
        if kind is None:
            self.wait()
            return
        try:
            self._drain()
        except Error:
            pass  # the exception under way says more

    def wait(self) -> None:
        """Waits for all that was submitted so far, and raises the first exception."""
        self._drain()
        submitted, self._submitted = self._submitted, []
        for i, pending in enumerate(submitted):
            failure = pending.error
            if failure is not None and (self.raises_empty or failure.status != lib.EMPTY):
                failure.args = (f"request {i} of the batch: {failure.args[0] if failure.args else ''}",)
                raise failure

    def _drain(self) -> None:
        for pending in self._submitted:
            while not pending.done:
                self._client._take(self._client._timeout)


class Whole(Batch):
    """A batch of at most 64 queries, rows and updates that is one message, sent at the end of the `with`, or by wait():

        with client.whole() as whole:
            whole.set_token(3, value=new)
            answer = whole.query(7, 0)

    The daemon checks all of it before it does any of it, and does it in order, with nothing of other clients in between (but
    when its log is full in the middle, or an update follows a read that has to be computed). A read reflects what comes
    before it in the batch, and nothing that comes after. It is no transaction: one request that fails does not undo the
    others. After an exception inside the `with` nothing is sent."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._collected: List[Pending] = []

    def _do(self, prepared: _Prepared) -> Pending:
        pending = Pending(prepared)
        self._collected.append(pending)
        return pending

    def __len__(self) -> int:
        return len(self._collected)

    def wait(self) -> None:
        collected, self._collected = self._collected, []
        if collected:
            self._client._submit_whole(collected)
            self._submitted.extend(collected)
        super().wait()
