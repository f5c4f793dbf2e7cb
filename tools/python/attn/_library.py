"""libattn as ctypes sees it: the structs of attn.h and the functions that are used. A test compares the layouts with
what a C compiler makes of the header."""

from __future__ import annotations

import ctypes as c
import ctypes.util
import os

u32, u64, f64 = c.c_uint32, c.c_uint64, c.c_double


class ConnectOptions(c.Structure):
    _fields_ = [("socket", c.c_char_p), ("name", c.c_char_p), ("timeout_ms", u32), ("wait", c.c_uint),
                ("direct", c.c_bool), ("stay_closed", c.c_bool), ("resume", c.c_bool), ("session", u64)]


class Error(c.Structure):
    _fields_ = [("status", c.c_uint), ("text", c.c_char * 500)]


class Info(c.Structure):
    _fields_ = [("heads", u32), ("n_q", u32), ("d", u32), ("d_v", u32), ("capacity", u32), ("precision", u32),
                ("scale", f64), ("incarnation", u64), ("daemon_pid", u32), ("protocol", u32)]


class SessionInfo(c.Structure):
    _fields_ = [("id", u64), ("begin", u64), ("last", u64)]


class Request(c.Structure):
    _fields_ = [("type", c.c_uint), ("head", u32), ("index", u32), ("column", u32), ("number", f64),
                ("key", c.c_void_p), ("value", c.c_void_p), ("bias", c.c_void_p), ("durable", c.c_bool), ("tag", u64),
                ("buffer", c.c_void_p), ("buffer_bytes", c.c_size_t)]


class Completion(c.Structure):
    _fields_ = [("tag", u64), ("status", c.c_uint), ("type", c.c_uint), ("index", u32), ("lsn", u64),
                ("incarnation", u64), ("value", f64), ("error_bound", f64)]


class Stat(c.Structure):
    _fields_ = ([("version", c.c_char * 16), ("name", c.c_char * 64), ("blas_kernel", c.c_char * 32),
                 ("isa", c.c_char * 16), ("state", c.c_char * 128), ("durability", c.c_char * 24)]
                + [(name, u32) for name in ("heads", "n_q", "n_k", "tokens", "d", "d_v", "capacity", "precision",
                                            "threads", "clients")]
                + [("scale", f64)]
                + [(name, u64) for name in ("log_pending", "log_capacity", "rows_hot", "rows_cold", "generation",
                                            "merges", "refreshes", "updates", "queries", "lsn", "durable_lsn",
                                            "snapshot_lsn", "region_bytes", "rss_bytes", "incarnation")]
                + [("reserved", u64 * 16)])


# enum att_request_type
(PING, QUERY, ROW, COLUMN, ALL, SET_TOKEN, UPDATE_K, UPDATE_V, APPEND, DELETE, SET_Q, FLUSH, MERGE, SNAPSHOT, SHUTDOWN,
 STAT) = range(1, 17)

OK, EMPTY, EBUSY = 0, 1, 8

_library: c.CDLL | None = None


def library() -> c.CDLL:
    """libattn, loaded when it is first needed."""
    global _library
    if _library is None:
        path = os.environ.get("ATTN_LIBRARY") or ctypes.util.find_library("attn") or "libattn.so.0"
        try:
            loaded = c.CDLL(path)
        except OSError as error:
            raise ImportError(f"libattn cannot be loaded ({error}): install it, or name it in ATTN_LIBRARY") from error
        _declare(loaded)
        _library = loaded
    return _library


def _declare(loaded: c.CDLL) -> None:
    client = c.c_void_p
    functions = {
        "att_connect": (c.c_uint, [c.POINTER(ConnectOptions), c.POINTER(client), c.POINTER(Error)]),
        "att_close": (None, [client]),
        "att_get_info": (None, [client, c.POINTER(Info)]),
        "att_get_session": (None, [client, c.POINTER(SessionInfo)]),
        "att_last_error": (c.c_char_p, [client]),
        "att_socket_path": (c.c_uint, [c.c_char_p, c.c_char_p, c.c_size_t, c.POINTER(Error)]),
        "att_submit": (c.c_uint, [client, c.POINTER(Request)]),
        "att_submit_batch": (c.c_uint, [client, c.POINTER(Request), u32]),
        "att_push": (None, [client]),
        "att_complete": (c.c_int, [client, c.POINTER(Completion), c.c_int, u32]),
        "att_in_flight": (u32, [client]),
        "att_call": (c.c_uint, [client, c.POINTER(Request), c.POINTER(Completion)]),
        "att_call_direct": (c.c_uint, [client, c.POINTER(Request), c.POINTER(Completion)]),
        "att_ping": (c.c_uint, [client, c.POINTER(u64)]),
    }
    for name, (result, arguments) in functions.items():
        function = getattr(loaded, name)
        function.restype = result
        function.argtypes = arguments
