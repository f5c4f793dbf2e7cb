#!/bin/bash
# The Python package and its examples, under the system's Python with the system's NumPy.
# Environment: ATTND_BUILD (the build directory).
source "$(dirname "$0")/lib.bash"
need attnd
need_no_sanitizer
[ -f "$build/libattn.so" ] || skip "libattn is not built"
python=/usr/bin/python3
[ -x "$python" ] && "$python" -c 'import numpy' 2>/dev/null || skip "python3-numpy is not installed"
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$source/tools/python ATTN_LIBRARY=$build/libattn.so ATTND_BUILD=$build
"$python" -W error::ResourceWarning -m unittest discover -s "$source/tools/python/tests"
