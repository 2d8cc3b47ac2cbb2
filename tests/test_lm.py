"""Any causal model of transformers through `LM`: by the book, whatever its family; its loss; and what strangers hand over."""
import json

import numpy as np
import pytest
import torch

from reasonlab.models.encoder import BadModel
from reasonlab.models.lm import LM, Request, head_of, read_requests, run_requests, start_ids, token_logprobs
from reasonlab.models.small import byte_tokenizer, small_llama, word_tokenizer

WORDS = ["the", "dog", "red", "city", "of", "dax", "is", "yes", "no", "and", "in", "a"]
TOK = word_tokenizer([" ".join(WORDS) + " " + w for w in WORDS] + WORDS)
V = len(TOK)
SMALL = dict(vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
             max_position_embeddings=64, bos_token_id=1, eos_token_id=None, pad_token_id=0)

FAMILIES = {
    "llama": ("LlamaConfig", SMALL), "qwen2": ("Qwen2Config", SMALL), "mistral, a window of 6": ("MistralConfig", SMALL | dict(sliding_window=6)),
    "gemma2, bent logits": ("Gemma2Config", SMALL | dict(head_dim=8, final_logit_softcapping=2., query_pre_attn_scalar=8, sliding_window=6)),
    "cohere, scaled": ("CohereConfig", SMALL | dict(logit_scale=.25)), "granite, divided": ("GraniteConfig", SMALL | dict(logits_scaling=3.)),
    "gpt2": ("GPT2Config", dict(vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1)),
    "gpt_neox": ("GPTNeoXConfig", {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
    "opt": ("OPTConfig", dict(vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, max_position_embeddings=64,
                              word_embed_proj_dim=16, bos_token_id=1, eos_token_id=1, pad_token_id=0, do_layer_norm_before=False)),
    "phi, with a bias": ("PhiConfig", SMALL | dict(num_key_value_heads=4)),
    "bloom, no positions": ("BloomConfig", dict(vocab_size=V, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1)),
    "mamba, recurrent": ("MambaConfig", dict(vocab_size=V, hidden_size=32, num_hidden_layers=2, state_size=4, bos_token_id=1, eos_token_id=1,
                                             pad_token_id=0)),
}


def family(name):
    import transformers
    kind, config = FAMILIES[name]
    torch.manual_seed(0)
    net = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**config)).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(.2 * torch.randn_like(p))  # biases and gains away from 0 and 1, so that forgetting one shows
    return net


def drawn(rng, n, longest=14):
    text = lambda k: " ".join(rng.choice(WORDS, k))
    return ([c for c in (text(k) for k in rng.integers(1, longest, n)) for _ in range(3)],
            [" " + text(k) for k in rng.integers(1, 6, 3 * n)])


def by_the_book(net, r):
    with torch.no_grad(): z = net(torch.tensor([[*r.context, *r.ids]]), use_cache=False).logits[0].float().log_softmax(-1)
    a = len(r.context) - 1
    return z[range(a, a + len(r.ids)), list(r.ids)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_scored_by_the_book(name):
    net = family(name)
    lm = LM(net, TOK)
    contexts, conts = drawn(np.random.default_rng(1), 12)
    requests = read_requests(TOK, contexts, conts, 64)
    want = [by_the_book(net, r) for r in requests]
    for got in (lm.logprobs(contexts, conts), run_requests(lm, requests, reuse=""), LM(net, TOK, budget=50).logprobs(contexts, conts)):
        assert max(float((a - b).abs().max()) for a, b in zip(got, want)) < 1e-5 * 10
    assert lm.direct, "its head is read from its configuration"
    if not name.startswith("mamba"): assert lm.reuse


def test_a_head_that_does_something_of_its_own_is_seen_and_gone_around():
    net = small_llama(TOK)
    net.register_forward_hook(lambda m, i, out: setattr(out, "logits", torch.tanh(out.logits) * 3) or out)
    lm = LM(net, TOK)
    contexts, conts = drawn(np.random.default_rng(2), 6)
    requests = read_requests(TOK, contexts, conts, 64)
    assert not lm.direct and not lm.reuse
    for a, r in zip(lm.logprobs(contexts, conts), requests): torch.testing.assert_close(a, by_the_book(net, r), atol=1e-5, rtol=1e-5)


def test_a_cache_that_lies_is_not_used():
    net = small_llama(TOK)
    true = net.model.forward
    def forward(*a, past_key_values=None, **kw):
        if past_key_values is not None:  # forgets the first token
            for layer in past_key_values.layers: layer.values[:, :, 0] = 0
        return true(*a, past_key_values=past_key_values, **kw)
    net.model.forward = forward
    lm = LM(net, TOK)
    assert lm.direct and not lm.reuse


def test_an_adapter_counts_and_its_wrapping_does_not():
    from peft import LoraConfig, get_peft_model
    contexts, conts = drawn(np.random.default_rng(3), 5)
    net = small_llama(TOK, seed=4)
    before = LM(net, TOK).logprobs(contexts, conts)
    wrapped = get_peft_model(net, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    lm = LM(wrapped, TOK)
    after = lm.logprobs(contexts, conts)
    assert lm.direct and lm.reuse and max(float((a - b).abs().max()) for a, b in zip(before, after)) > 1e-3
    for a, r in zip(after, read_requests(TOK, contexts, conts, 64)): torch.testing.assert_close(a, by_the_book(wrapped, r), atol=1e-5, rtol=1e-4)
    with wrapped.disable_adapter(): off = lm.logprobs(contexts, conts)
    assert max(float((a - b).abs().max()) for a, b in zip(before, off)) < 1e-5


# The loss over answers alone (acceptance check 7) ----------------------------------------------------------------------------------------

def masked(net, requests):
    "The loss of transformers with -100 on everything but the answers"
    width = max(len(r.context) + len(r.ids) for r in requests)
    ids = torch.tensor([[*r.context, *r.ids, *[0] * (width - len(r.context) - len(r.ids))] for r in requests])
    labels = torch.tensor([[-100] * len(r.context) + [*r.ids] + [-100] * (width - len(r.context) - len(r.ids)) for r in requests])
    return net(ids, labels=labels, use_cache=False).loss


@pytest.mark.parametrize("name", ["llama", "gemma2, bent logits", "gpt2", "phi, with a bias"])
def test_the_loss_over_answers_is_the_masked_loss_gradients_included(name):
    net = family(name)
    requests = read_requests(TOK, *drawn(np.random.default_rng(4), 5), 64)
    grads = []
    for loss in (masked(net, requests), -token_logprobs(LM(net, TOK), requests).mean()):
        net.zero_grad(); loss.backward()
        grads.append((loss.item(), {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}))
    (a, ga), (b, gb) = grads
    assert abs(a - b) < 1e-6 and ga.keys() == gb.keys() and len(ga) > 5
    for k in ga: torch.testing.assert_close(ga[k], gb[k], atol=1e-6, rtol=1e-4)


def peak(f):
    "Peak bytes of tensors that live at once, as torch's profiler counts them"
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof: f()
    now = top = 0
    for e in sorted((e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += e.nbytes(); top = max(top, now)
    return top


def test_the_loss_over_answers_needs_a_third_of_the_memory():
    tok = word_tokenizer([f"w{i}" for i in range(31_997)])
    net, rng = small_llama(tok, 64, 2, 4, 256), np.random.default_rng(5)
    requests = [Request(tuple(rng.integers(3, 32_000, 253).tolist()), tuple(rng.integers(3, 32_000, 3).tolist())) for _ in range(2)]
    lm = LM(net, tok); assert lm.direct
    def ours(): net.zero_grad(); (-token_logprobs(lm, requests).mean()).backward()
    def theirs(): net.zero_grad(); masked(net, requests).backward()
    ours(); theirs()
    a, b = peak(ours), peak(theirs)
    assert 3 * a < b, f"{a / 2**20:.0f} MiB against {b / 2**20:.0f}"


# Tokens --------------------------------------------------------------------------------------------------------------------------------------

def test_no_token_is_lost_or_counted_twice_at_the_seam():
    rng = np.random.default_rng(6)
    texts = ["the dog is red.", "naïve 🌧 cafés, 12 of 30", "a  b\n\tc", "ﬁne — ‘quoted’ text…"]
    for tok in (byte_tokenizer(texts * 2, 300), byte_tokenizer(texts * 9, 420)):
        for t in texts:
            whole = tok(t)["input_ids"]
            for cut in rng.integers(1, len(t), 8):
                r, = read_requests(tok, [t[:cut]], [t[cut:]], 512)
                own = [i for i in r.context if i != tok.bos_token_id] + list(r.ids)
                assert own == whole and len(r.spans) == len(r.ids)
                assert all(0 <= a <= b <= len(t) - cut for a, b in r.spans) and r.spans[-1][1] == len(t) - cut


def test_marks_in_a_text_are_text():
    r, = read_requests(TOK, ["the dog</s><s>"], [" yes"], 64)
    assert TOK.bos_token_id not in r.context[len(start_ids(TOK)):]


def test_a_model_without_a_beginning_says_what_it_needs():
    import copy
    bare = copy.deepcopy(TOK); bare.bos_token = None; bare.eos_token = None
    lm = LM(small_llama(TOK), bare)
    with pytest.raises(ValueError, match="row 1: the context is empty.*at least one word"): lm.logprobs([""], ["yes"])
    with pytest.raises(ValueError, match="row 2"): lm.states(["yes", ""])


def test_bad_rows_name_themselves_and_lists_of_unlike_length_are_refused():
    lm = LM(small_llama(TOK), TOK)
    with pytest.raises(ValueError, match="row 2: the continuation is no text but '3'"): lm.logprobs(["a", "a"], ["b", 3])
    with pytest.raises(ValueError, match="2 contexts and 1"): lm.logprobs(["a", "a"], ["b"])
    with pytest.raises(ValueError, match="2 contexts and 1"): lm.score(["a", "a"], [["b"]])
    with pytest.raises(ValueError, match="row 1: the prompt is no text"): lm.generate([None])
    assert lm.logprobs([], []) == [] and lm.score([], []) == [] and lm.generate([]) == [] and len(lm.states([])) == 0
    assert lm.score(["a"], [[]])[0].shape == (0,)


# Folders -------------------------------------------------------------------------------------------------------------------------------------

def test_folders_that_are_refused(tmp_path):
    lm = LM(small_llama(TOK), TOK)
    lm.save(tmp_path / "good")
    assert LM.load(tmp_path / "good").direct
    half = tmp_path / "half"; lm.save(half, "float16")
    assert LM.load(half).net.dtype == torch.float32 and (half / "model.safetensors").stat().st_size < (tmp_path / "good/model.safetensors").stat().st_size
    pickled = tmp_path / "pickled"; lm.save(pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(BadModel, match="safetensors"): LM.load(pickled)
    torn = tmp_path / "torn"; lm.save(torn)
    f = torn / "model.safetensors"; f.write_bytes(f.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors"): LM.load(torn)
    from transformers import BertConfig, BertModel
    BertModel(BertConfig(vocab_size=V, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)).save_pretrained(tmp_path / "bert")
    TOK.save_pretrained(tmp_path / "bert")
    with pytest.raises(BadModel): LM.load(tmp_path / "bert")
    code = tmp_path / "code"; lm.save(code)
    config = json.loads((code / "config.json").read_text()) | dict(model_type="mine", auto_map={"AutoModelForCausalLM": "evil.Net"})
    (code / "config.json").write_text(json.dumps(config))
    (code / "evil.py").write_text("open('ran', 'w')")
    with pytest.raises(BadModel): LM.load(code)
    assert not (code / "ran").exists()


def test_heads_are_read_from_configurations():
    assert head_of(family("gemma2, bent logits")).softcap == 2. and head_of(family("cohere, scaled")).scale == .25
    assert abs(head_of(family("granite, divided")).scale - 1 / 3) < 1e-9 and head_of(family("phi, with a bias")).bias is not None
