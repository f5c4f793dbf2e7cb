"""Runs attnd and checks the package against NumPy. Environment: ATTND_BUILD (the build directory), ATTN_LIBRARY."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

import attn
from attn import _library

BUILD = Path(os.environ["ATTND_BUILD"])
SOURCE = Path(__file__).resolve().parents[3]


class Daemon:
    """attnd on a directory of its own."""

    def __init__(self, arrays=None, *options):
        self.root = Path(tempfile.mkdtemp(prefix="attnd-py-", dir="/tmp"))
        self.socket = self.root / "s"
        self.process = None
        arguments = list(options)
        for name, array in (arrays or {}).items():
            np.save(self.root / f"{name}.npy", array)
            arguments += [f"--{name}", str(self.root / f"{name}.npy")]
        self.start(*arguments)

    def start(self, *arguments):
        command = [BUILD / "attnd", "--dir", self.root / "state", "--socket", self.socket, *arguments]
        with open(self.root / "log", "a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("ready"):
            raise RuntimeError((self.root / "log").read_text())

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def close(self):
        self.kill()
        shutil.rmtree(self.root)


def softmax_output(q, k, v, bias=None, scale=1.0):
    scores = scale * q.astype(np.float64) @ k.astype(np.float64).T + (0 if bias is None else bias)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights @ v / weights.sum(axis=-1, keepdims=True)


class WithDaemon(unittest.TestCase):
    def setUp(self):
        generator = np.random.default_rng(5)
        self.q, self.k, self.v = (generator.normal(size=shape).astype(np.float32)
                                  for shape in ((12, 6), (40, 6), (40, 5)))
        self.daemon = Daemon({"q": self.q, "k": self.k, "v": self.v}, "--capacity", "50")
        self.addCleanup(self.daemon.close)
        self.client = attn.Client(self.daemon.socket)
        self.addCleanup(self.client.close)

    def close_to(self, answer, truth):
        far = np.abs(answer.values - truth)
        self.assertTrue(np.all(far <= np.asarray(answer.error_bound) + 1e-13), far.max())

    def expect_output(self):
        self.close_to(self.client.all(), softmax_output(self.q, self.k, self.v))


class Reading(WithDaemon):
    def test_everything_agrees_with_numpy(self):
        truth = softmax_output(self.q, self.k, self.v)
        self.expect_output()
        self.close_to(self.client.row(3), truth[3])
        self.close_to(self.client.column(2), truth[:, 2])
        value, bound, lsn = self.client.query(7, 4)
        self.assertLessEqual(abs(value - truth[7, 4]), bound + 1e-13)
        self.assertEqual(lsn, 0)
        self.close_to(self.client.queries(np.arange(12), 1), truth[:, 1])
        self.close_to(self.client.queries([[1, 2], [3, 4]], [[0], [1]]), truth[[[1, 2], [3, 4]], [[0], [1]]])

    def test_answers_go_into_the_array_that_is_given(self):
        space = np.full((12, 5), np.nan)
        self.assertIs(self.client.all(out=space).values, space)
        np.testing.assert_allclose(space, softmax_output(self.q, self.k, self.v), rtol=1e-5)
        for wrong in (np.empty((5, 12)), np.empty((12, 5), np.float32), np.empty((12, 10))[:, ::2]):
            with self.assertRaises(attn.ATT_EINVAL):
                self.client.all(out=wrong)

    def test_direct_reads(self):
        with attn.Client(self.daemon.socket, direct=True) as direct:
            for _ in range(3):
                self.close_to(direct.row(3), softmax_output(self.q, self.k, self.v)[3])
                self.client.update_v(8, 1, 0.5)
                self.v[8, 1] += 0.5

    def test_what_is_served(self):
        info = self.client.info
        self.assertEqual((info.heads, info.n_q, info.d, info.d_v, info.capacity, info.precision, info.scale),
                         (1, 12, 6, 5, 50, "mixed", 1.0))
        self.assertEqual(info.daemon_pid, self.daemon.process.pid)
        stat = self.client.stat()
        self.assertEqual((stat.tokens, stat.state, stat.lsn), (40, "serving", 0))
        self.assertLess(self.client.ping(), 1)


class Changing(WithDaemon):
    def test_updates_are_reflected(self):
        self.assertEqual(self.client.update_k(17, 3, 0.25), 1)
        self.k[17, 3] += 0.25
        self.client.update_v(2, 4, -1)
        self.v[2, 4] -= 1
        self.k[5], self.v[5] = 0.5, np.arange(5)
        self.client.set_token(5, key=self.k[5], value=np.arange(5))  # integers are converted
        self.q[0] = 1
        self.client.set_query(0, [1] * 6)
        self.expect_output()
        for change in (self.client.merge, self.client.flush, self.client.snapshot):
            change()
        self.expect_output()

    def test_tokens_come_and_go(self):
        new = self.client.append(np.ones(6), np.zeros(5))
        self.assertEqual(new, 40)
        self.client.delete(0)
        self.client.set_token(1, bias=-np.inf)
        k, v = (np.delete(np.vstack([array, row]), [0, 1], axis=0)
                for array, row in ((self.k, np.ones(6, np.float32)), (self.v, np.zeros(5, np.float32))))
        self.close_to(self.client.all(), softmax_output(self.q, k, v))

    def test_a_bias_that_float32_cannot_hold_masks_no_token(self):
        for call in (lambda: self.client.set_token(1, bias=-1e39),
                     lambda: self.client.append(np.ones(6), np.ones(5), -1e39),
                     lambda: self.client.set_tokens([1, 2], biases=[0, -1e39])):
            with self.assertRaises(attn.ATT_ENOTFINITE):
                call()
        self.close_to(self.client.all(), softmax_output(self.q, self.k, self.v))

    def test_a_row_without_tokens_is_an_exception(self):
        self.client.set_tokens(range(40), biases=np.full(40, -np.inf))
        with self.assertRaises(attn.ATT_EMPTY):
            self.client.query(0, 0)
        self.assertTrue(np.isnan(self.client.column(0).values).all())
        self.assertTrue(np.isnan(self.client.queries([0, 1], 0).values).all())
        self.assertTrue(np.isnan(self.client.all().values).all())

    def test_errors_are_named_like_the_statuses(self):
        for kind, builtin, call in (
                (attn.ATT_ERANGE, IndexError, lambda: self.client.query(12, 0)),
                (attn.ATT_ERANGE, IndexError, lambda: self.client.query(-1, 0)),
                (attn.ATT_ERANGE, IndexError, lambda: self.client.query(0, 0, head=1)),
                (attn.ATT_ENOTFINITE, ValueError, lambda: self.client.update_k(0, 0, np.nan)),
                (attn.ATT_EINVAL, ValueError, lambda: self.client.set_token(0, key=[1, 2])),
                (attn.ATT_EINVAL, ValueError, lambda: self.client.set_token(0)),
                (attn.ATT_EINVAL, ValueError, lambda: attn.Client(self.daemon.socket, wait="never")),
                (attn.ATT_ENOENT, FileNotFoundError, lambda: attn.Client("/tmp/no/such/socket"))):
            with self.assertRaises(kind) as caught:
                call()
            self.assertIsInstance(caught.exception, builtin)
            self.assertTrue(str(caught.exception))
            self.assertEqual(caught.exception.name, kind.__name__)
        with self.assertRaises(TypeError):
            self.client.query(0.5, 0)
        for _ in range(10):
            self.client.append(np.zeros(6), np.zeros(5))
        with self.assertRaises(attn.ATT_ECAPACITY):
            self.client.append(np.zeros(6), np.zeros(5))


class Batches(WithDaemon):
    def test_many_requests_keep_their_order(self):
        count = 6000
        with self.client.batch() as batch:
            for i in range(count):
                batch.set_token(i % 40, value=np.full(5, i))
            self.v[:] = np.arange(count - 40, count)[np.argsort(np.arange(count - 40, count) % 40)][:, None]
            rows = [batch.row(row) for row in range(12)]
            column = batch.column(1)
        with self.client.batch() as other:  # (a read may reflect what was submitted after it, too)
            new = other.append(np.zeros(6), np.zeros(5))
        truth = softmax_output(self.q, self.k, self.v)
        for row, answer in enumerate(rows):
            self.close_to(answer.result(), truth[row])
        self.close_to(column.result(), truth[:, 1])
        self.assertEqual(new.result(), 40)
        self.assertEqual(len(batch), 0)

    def test_a_failure_is_raised_at_the_end(self):
        with self.assertRaises(attn.ATT_ERANGE):
            with self.client.batch() as batch:
                good = batch.query(1, 1)
                bad = batch.query(99, 1)
                last = batch.query(2, 1)
        self.assertIsInstance(good.result(), attn.Answer)
        self.assertIsInstance(last.result(), attn.Answer)
        self.assertIsInstance(bad.error, attn.ATT_ERANGE)

    def test_an_exception_inside_is_not_hidden(self):
        with self.assertRaises(KeyError):
            with self.client.batch() as batch:
                one = batch.query(1, 1)
                raise KeyError
        self.assertTrue(one.done)

    def test_calls_may_come_between(self):
        with self.client.batch() as batch:
            one = batch.update_v(0, 0, 1)
            self.client.query(0, 0)
            two = batch.update_v(0, 0, 1)
        self.assertEqual((one.result(), two.result()), (1, 2))


class Wholes(WithDaemon):
    def test_reads_reflect_their_place(self):
        values = []
        with self.client.whole() as whole:
            for i in range(20):
                whole.set_token(i % 3, value=np.full(5, i + 1.0))
                self.v[i % 3] = i + 1.0
                values.append((whole.row(i % 12), softmax_output(self.q, self.k, self.v)[i % 12]))
            self.assertEqual(len(whole), 40)
        self.assertEqual(len(whole), 0)
        for answer, truth in values:
            self.close_to(answer.result(), truth)

    def test_what_may_not_be_in_one_is_refused_and_nothing_done(self):
        before = self.client.row(1)
        whole = self.client.whole()
        whole.set_token(0, value=np.zeros(5))
        whole.column(1)
        with self.assertRaisesRegex(attn.ATT_EINVAL, "request 1 of a batch"):
            whole.wait()
        with self.assertRaises(KeyError):
            with self.client.whole() as whole:
                whole.set_token(0, value=np.zeros(5))
                raise KeyError
        self.assertEqual(self.client.row(1).lsn, before.lsn)

    def test_one_failure_does_not_keep_back_others(self):
        whole = self.client.whole()
        one, bad, two = whole.update_v(0, 0, 1), whole.query(99, 1), whole.query(2, 1)
        with self.assertRaises(attn.ATT_ERANGE):
            whole.wait()
        self.assertGreater(one.result(), 0)
        self.assertIsInstance(bad.error, attn.ATT_ERANGE)
        self.assertGreaterEqual(two.result().lsn, one.result())


class Ending(WithDaemon):
    def test_a_closed_client_says_so(self):
        self.client.close()
        self.client.close()
        self.assertIn("closed", repr(self.client))
        with self.assertRaises(attn.ATT_ECLOSED):
            self.client.query(0, 0)

    def test_the_daemon_is_found_again_after_a_crash(self):
        self.client.update_v(3, 3, 2)
        self.v[3, 3] += 2
        self.daemon.kill()
        self.daemon.start()
        for _ in range(3):  # what was in flight is lost, the next call connects again
            try:
                self.client.ping()
                break
            except attn.ATT_ECLOSED:
                pass
        self.expect_output()
        self.assertEqual(self.client.info.incarnation, 2)

    def test_without_a_daemon_a_batch_fails(self):
        with attn.Client(self.daemon.socket, reconnect=False) as client:
            self.daemon.kill()
            with self.assertRaises(ConnectionError):
                with client.batch() as batch:
                    batch.query(0, 0)

    def test_shutdown(self):
        self.client.shutdown()
        self.assertEqual(self.daemon.process.wait(30), 0)


class Sessions(WithDaemon):
    def test_updates_take_effect_once_across_crashes(self):
        before = float(self.v[3, 0])
        with attn.Client(self.daemon.socket, session=attn.SESSION_ANY) as client:
            for crash in range(3):
                with client.batch() as batch:
                    for _ in range(100):
                        batch.update_v(3, 0, 1)
                    self.daemon.kill()
                    self.daemon.start()
                client.update_v(3, 0, 1)
            client.flush()
            self.assertEqual(client.session.last, 303)
        self.v[3, 0] = before + 303
        self.close_to_all()

    def close_to_all(self):
        with attn.Client(self.daemon.socket) as client:
            self.close_to(client.all(), softmax_output(self.q, self.k, self.v))

    def test_a_program_that_starts_again_learns_how_far_it_had_come(self):
        with self.assertRaises(attn.ATT_EEXPIRED):
            attn.Client(self.daemon.socket, session=7, resume=True)
        first = attn.Client(self.daemon.socket, session=7)
        self.addCleanup(first.close)
        self.assertEqual(first.session, attn.Session(7, 0, 0))
        for _ in range(3):
            first.update_v(1, 1, 1)
        with attn.Client(self.daemon.socket, session=7, resume=True) as second:
            self.assertEqual(second.session, attn.Session(7, 3, 3))
            with self.assertRaises(attn.ATT_EFENCED):
                first.update_v(1, 1, 1)
        self.v[1, 1] += 3
        self.close_to_all()

    def test_bad_sessions_are_refused(self):
        self.assertIsNone(self.client.session)
        for wrong in ({"session": 0}, {"session": 2**64}, {"session": -1}, {"resume": True}):
            with self.assertRaises(attn.ATT_EINVAL):
                attn.Client(self.daemon.socket, **wrong)


class Heads(unittest.TestCase):
    def test_heads_are_apart(self):
        generator = np.random.default_rng(6)
        q, k, v = (generator.normal(size=shape).astype(np.float32) for shape in ((3, 4, 5), (3, 20, 5), (3, 20, 2)))
        daemon = Daemon({"q": q, "k": k, "v": v}, "--precision", "double")
        self.addCleanup(daemon.close)
        with attn.Client(daemon.socket) as client:
            client.update_k(7, 1, 0.5, head=2)
            k[2, 7, 1] += 0.5
            answer = client.all()
            truth = np.stack([softmax_output(*arrays) for arrays in zip(q, k, v)])
            np.testing.assert_allclose(answer.values, truth, rtol=0, atol=answer.error_bound + 1e-13)
            np.testing.assert_array_equal(client.all(head=1).values, answer.values[1])
            np.testing.assert_allclose(client.row(3, head=2).values, truth[2, 3], atol=1e-9)


class Package(unittest.TestCase):
    def test_there_is_one_version(self):
        text = (SOURCE / "CMakeLists.txt").read_text()
        self.assertEqual(attn.__version__, re.search(r"project\(attnd VERSION ([0-9.]+)", text).group(1))

    def test_every_status_has_its_exception(self):
        header = (SOURCE / "core/attn_status.h").read_text()
        for name, number in re.findall(r"^ *(ATT_[A-Z]+) = ([0-9]+),", header, re.M):
            if name != "ATT_OK":
                self.assertEqual(getattr(attn, name).status, int(number))

    def test_structs_are_as_in_the_header(self):
        compiler = shutil.which("cc")
        if not compiler:
            self.skipTest("no C compiler")
        structs = {"att_connect_options": _library.ConnectOptions, "att_error": _library.Error,
                   "att_info": _library.Info, "att_request": _library.Request,
                   "att_session_info": _library.SessionInfo,
                   "att_completion": _library.Completion, "att_stat": _library.Stat}
        lines, expected = [], []
        for name, struct in structs.items():
            lines.append(f'printf("%zu\\n", sizeof(struct {name}));')
            expected.append(ctypes.sizeof(struct))
            for field in struct._fields_:
                lines.append(f'printf("%zu %zu\\n", offsetof(struct {name}, {field[0]}), '
                             f'sizeof(((struct {name} *)0)->{field[0]}));')
                expected.append(f"{getattr(struct, field[0]).offset} {getattr(struct, field[0]).size}")
        for number in ("STAT", "SHUTDOWN", "SET_TOKEN", "APPEND"):
            lines.append(f'printf("%d\\n", ATT_REQ_{number});')
            expected.append(getattr(_library, number))
        with tempfile.TemporaryDirectory() as root:
            source = Path(root) / "layout.c"
            source.write_text("#include <attn.h>\n#include <stdio.h>\nint main(void)\n{\n" + "\n".join(lines) + "\n}\n")
            subprocess.run([compiler, f"-I{SOURCE}/ipc", f"-I{SOURCE}/core", source, "-o", f"{root}/layout"], check=True)
            got = subprocess.run([f"{root}/layout"], capture_output=True, text=True, check=True).stdout.split("\n")
        self.assertEqual(got[:-1], [str(one) for one in expected])


class Examples(unittest.TestCase):
    def run_example(self, name):
        root = Path(tempfile.mkdtemp(prefix="attnd-py-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, root)
        program = [sys.executable, str(SOURCE / "tools/python/examples" / name)]
        environment = dict(os.environ, PYTHONPATH=str(SOURCE / "tools/python"))
        start = subprocess.run(program + ["arrays", str(root)], env=environment, capture_output=True, text=True, check=True)
        options = start.stdout.split()  # as printed
        self.assertEqual(options[:3], ["attnd", "--dir", "state"])
        daemon = Daemon(None, *options[3:])
        self.addCleanup(daemon.close)
        done = subprocess.run(program + ["run", str(daemon.socket)], env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_regression(self):
        self.run_example("regression.py")

    def test_memory(self):
        self.run_example("memory.py")


if __name__ == "__main__":
    unittest.main()
