"""Client of attnd, the daemon that keeps softmax attention current.

    import attn

    with attn.Client() as client:
        client.update_k(17, 3, 0.25)                 # K[17][3] += 0.25
        value, bound, lsn = client.query(5, 3)       # O[5][3]
        output = client.all().values                 # everything, a NumPy array

It is a layer over libattn (ctypes), which must be installed; ATTN_LIBRARY names it when it is somewhere else.
"""

from ._client import SESSION_ANY, Answer, Array, Batch, Client, Info, Pending, Session, Stat, Whole, socket_path
from ._errors import *  # noqa: F401,F403 (the exceptions; __all__ there)
from ._errors import __all__ as _error_names
from ._version import __version__

__all__ = ["Answer", "Array", "Batch", "Client", "Info", "Pending", "SESSION_ANY", "Session", "Stat", "Whole",
           "socket_path", "__version__"] + _error_names
