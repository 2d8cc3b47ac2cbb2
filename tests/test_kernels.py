"Every operation and implementation under all nine points, wrong variants that must die, memory that does not grow, and what may be imported"
import ast
import json
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available(): os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported

from book import ROOT  # noqa: E402
from reasonlab import core  # noqa: E402
from reasonlab.kernels import dispatch, protocol  # noqa: E402
from reasonlab.kernels.divergence import KINDS, linear_divergence  # noqa: E402
from reasonlab.kernels.divergence_faults import divergence_op  # noqa: E402
from reasonlab.kernels.logprob import linear_logprob, selected_logprob  # noqa: E402
from reasonlab.kernels.logprob_faults import logprob_op  # noqa: E402

try: import triton  # noqa: F401
except ImportError: triton = None
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
protocol.DEVICE = DEVICE
OPS = {op.name: op for op in (logprob_op(), *map(divergence_op, KINDS))}
IMPLS = "ref", "tiled", "triton"
CELLS = [(o, i, p) for o in OPS for i in IMPLS for p in protocol.POINTS]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter computes with NaN in numpy, which says so
DONE = {}


@pytest.fixture(autouse=True, scope="module")
def threads():
    was = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(was)


@pytest.mark.parametrize("op,impl,point", CELLS, ids=lambda x: str(x))
def test_point(op, impl, point):
    if impl == "triton" and triton is None: pytest.skip("triton is not installed (Linux only)")
    DONE.setdefault((op, impl), {}).update(protocol.check(OPS[op], impl, (point,), quiet=True))


def test_no_cell_of_the_table_is_empty(request):
    print("\n" + protocol.protocol_table(DONE))
    ran = [i for i in request.session.items if getattr(i, "originalname", "") == "test_point"]
    if len(ran) < len(CELLS): pytest.skip("some points were deselected")
    want = {(o, i, p) for o, i, p in CELLS if i != "triton" or triton}
    assert {(o, i, p) for (o, i), row in DONE.items() for p in row} == want, "\n" + protocol.protocol_table(DONE)


def finds(op, m):
    return protocol.killed(m, lambda: protocol.check(op, "tiled", (1, 3, 4, 5, 6), quiet=True))


@pytest.mark.parametrize("m", OPS["logprob"].mutants, ids=lambda m: m.name)
def test_the_protocol_kills_wrong_variants_of_logprob(m):
    assert finds(OPS["logprob"], m), m.name


@pytest.mark.parametrize("m", OPS["jsd"].mutants, ids=lambda m: m.name)
def test_the_protocol_kills_wrong_variants_of_divergence(m):
    assert any(finds(OPS[k], m) for k in ("jsd", "rkl")), m.name


def test_without_a_fault_nothing_dies():
    m = protocol.Mutant("none", "reasonlab.kernels.logprob", "self.s = self.s*down", "self.s = down*self.s")
    assert not finds(OPS["logprob"], m)
    assert len(OPS["logprob"].mutants) >= 8 and len(OPS["jsd"].mutants) >= 8


# Memory -------------------------------------------------------------------------------------------------------------------------------

def held(f):
    "The largest tensor that a call makes, in MiB"
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **kwargs or {})
            given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
            for x in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given:
                    Watch.most = max(Watch.most, x.untyped_storage().nbytes() / 2**20)
            return out
    Watch.most = 0
    with Watch(): f()
    return Watch.most


def test_the_watch_sees_logits():
    h, W = torch.randn(64, 4), torch.randn(8192, 4)
    assert held(lambda: h @ W.T) == 2.


@pytest.mark.parametrize("T,V", [(600, 9000), (1200, 9000), (600, 18000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logprob_holds_no_logits(T, V, dtype):
    h, W, y = torch.randn(T, 8).to(dtype).requires_grad_(), torch.randn(V, 8).to(dtype), torch.randint(V, (T,))
    def both(): linear_logprob(h, W, y, entropy=True, argmax=True, rank=True).logprob.sum().backward()
    assert held(both) <= 8., "more than one tile of 1024 x 2048"


@pytest.mark.parametrize("T,V", [(300, 9000), (1200, 9000), (300, 36000)])
@pytest.mark.parametrize("kind", KINDS)
def test_divergence_holds_no_logits(T, V, kind):
    h, W, k, U = (torch.randn(*s) for s in ((T, 8), (V, 8), (T, 4), (V, 4)))
    assert held(lambda: linear_divergence(h, W, k, U, kind)) <= 16.


# What callers rely on -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("impl", IMPLS[1:])
def test_a_sure_target_keeps_its_gradient_in_bf16(impl):
    "1 - p is 1e-3 or less: rounded to bfloat16 before the difference is taken it would be nought, or twice as much"
    if impl == "triton" and triton is None: pytest.skip("triton is not installed (Linux only)")
    h, W, y = torch.eye(8, 16)*3, torch.randn(20, 16)*.1, torch.arange(8)
    W[range(8), range(8)] = 3.
    h, W = (x.bfloat16().requires_grad_() for x in (h, W))
    a, b = (x.detach().double().requires_grad_() for x in (h, W))
    linear_logprob(h, W, y, impl=impl).logprob.sum().backward()
    want = (a @ b.T).log_softmax(1).gather(1, y[:, None])
    assert 1e-5 < 1 - want.exp().min() < .01
    want.sum().backward()
    for x, z in ((h, a), (W, b)): assert (x.grad.double() - z.grad).norm() < 1e-2*z.grad.norm()


def test_second_derivatives_are_refused():
    h, g = torch.randn(3, 4, requires_grad=True), torch.randn(3, requires_grad=True)
    out = linear_logprob(h, torch.randn(9, 4), torch.arange(3)).logprob
    d, = torch.autograd.grad((out*g).sum(), h, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"): d.sum().backward()


@pytest.mark.parametrize("impl", ["ref", "tiled"])
def test_everything_ignored(impl):
    h, W = torch.randn(3, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    out = linear_logprob(h, W, torch.full((3,), -100), entropy=True, argmax=True, rank=True, impl=impl)
    out.logprob.sum().backward()
    assert not any(x.any() for x in out) and not h.grad.any() and not W.grad.any()
    d = linear_divergence(h, W, torch.randn(3, 5), torch.randn(9, 5), target=torch.full((3,), -100), impl=impl)
    assert not d.any() and d.shape == (3,)


def test_the_variable_decides_unless_the_argument_does(monkeypatch):
    h, W, y = torch.randn(3, 4), torch.randn(9, 4), torch.arange(3)
    monkeypatch.setenv("REASONLAB_IMPL", "ref")
    assert "ref (REASONLAB_IMPL says so)" in dispatch.explain(linear_logprob, h, W, y)
    assert "tiled (asked for)" in dispatch.explain(linear_logprob, h, W, y, impl="tiled")
    monkeypatch.setenv("REASONLAB_IMPL", "quick")
    with pytest.raises(ValueError, match="quick"): linear_logprob(h, W, y)
    monkeypatch.delenv("REASONLAB_IMPL")
    monkeypatch.delenv("TRITON_INTERPRET")
    if DEVICE == "cpu":
        with pytest.raises(ValueError, match="needs a GPU"): linear_logprob(h, W, y, impl="triton")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_of_state_and_head_may_differ(dtype):
    h, W, y = torch.randn(5, 8).to(dtype).requires_grad_(), torch.randn(30, 8, requires_grad=True), torch.arange(5)
    out = linear_logprob(h, W, y, block=(2, 7))
    want = (h.double() @ W.double().T).log_softmax(1).gather(1, y[:, None])[:, 0]
    assert out.logprob.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(out.logprob.double(), want, atol=1e-5, rtol=1e-5)
    out.logprob.sum().backward()
    assert h.grad.dtype == dtype and W.grad.dtype == torch.float32


def test_selected_rows_are_differentiable_and_few():
    h, W = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True), torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    b, each = torch.randn(9, dtype=torch.float64, requires_grad=True), torch.randint(9, (2, 3, 5))
    assert torch.autograd.gradcheck(lambda h, W, b: selected_logprob(h, W, torch.tensor([2, 7]), bias=b, softcap=3.), (h, W, b))
    assert torch.autograd.gradcheck(lambda h, W, b: selected_logprob(h, W, each, bias=b, temperature=.5), (h, W, b))
    big = torch.randn(40_000, 4)
    assert held(lambda: selected_logprob(torch.randn(10, 4), big, torch.tensor([5, 9]))) < .01


def test_a_model_of_transformers_is_read_by_its_configuration():
    tf = pytest.importorskip("transformers")
    config = tf.Gemma2Config(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                             head_dim=8, final_logit_softcapping=2.)
    torch.manual_seed(0)
    net = tf.Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        net.lm_head.weight *= 40
        ids = torch.randint(50, (2, 7))
        logits = net(ids).logits
        hidden = net.model(ids).last_hidden_state
        ours = linear_logprob(hidden[:, :-1], net.lm_head.weight, ids[:, 1:], **dispatch.logit_options(config)).logprob
        want = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        without = linear_logprob(hidden[:, :-1], net.lm_head.weight, ids[:, 1:]).logprob
    torch.testing.assert_close(ours, want, atol=1e-4, rtol=1e-4)
    assert (without - want).abs().max() > .1, "the cap would not matter here"


# What may be imported -----------------------------------------------------------------------------------------------------------------

def _imports(node) -> set:
    if isinstance(node, ast.Import): return {a.name for a in node.names}
    if isinstance(node, ast.ImportFrom):
        return {node.module if not node.level else "reasonlab.kernels" if node.level == 1 else "reasonlab"}
    return set()


def test_kernels_import_torch_triton_jaxtyping_and_themselves():
    allowed, peers, odd = {*sys.stdlib_module_names, "torch", "triton", "jaxtyping"}, {"liger_kernel", "cut_cross_entropy"}, {}
    for p in (ROOT / "reasonlab/kernels").glob("*.py"):
        tree = ast.parse(p.read_text())
        names = set().union(*map(_imports, ast.walk(tree)))
        odd[p.name] = {n for n in names if n.split(".")[0] not in allowed and not n.startswith("reasonlab.kernels")}
        if p.name == "bench_kernels.py":  # the peers it races, where they are installed: inside a function, so never at import
            top = set().union(*map(_imports, tree.body))
            assert not {n.split(".")[0] for n in top} & peers, "a peer is imported with the module"
            odd[p.name] = {n for n in odd[p.name] if n.split(".")[0] not in peers}
    assert len(odd) > 8 and not any(odd.values()), odd


def test_triton_is_imported_where_it_is_used():
    code = ("import sys, torch; from reasonlab.kernels.logprob import linear_logprob as f; f(torch.randn(2, 3), torch.randn(5, 3), torch.arange(2));"
            "from reasonlab.kernels import divergence, protocol, logprob_faults, divergence_faults;"
            "assert 'triton' not in sys.modules, 'triton came along'")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not core.asset("calibration").joinpath("bench_kernels.json").is_file(), reason="not measured yet")
def test_the_stored_table_is_whole():
    table = json.loads(core.asset("calibration/bench_kernels.json").read_text(encoding="utf-8"))
    assert table["schema"] == 1 and table["runs"]
    for run in table["runs"]:
        assert len(run["commit"]) == 40, "measured from code that is not in git"
        assert {c["name"] for c in run["contests"]} >= {"logprob forward", "logprob forward + backward", "jsd forward"}
        for c in run["contests"]:
            assert not c["failed"] and c["gemm"] > 0 and c["arms"][0]["arm"] == "ours"
            assert all(a["gap"] is None or a["gap"] < (1e-5 if c["dtype"] == "float32" else 1e-2) for a in c["arms"]), "other numbers"
        if run["device"] == "cpu": assert run["contests"][0]["shape"] == [1024, 576, 32000]
