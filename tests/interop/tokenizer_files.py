"""Folders with a tokenizer's files as different hands write them, and what transformers makes of texts.

usage: python tokenizer_files.py BASE SPM OUT      (a Python with transformers; sentencepiece for the folders with a .model)
BASE: a folder with tokenizer.json of MiniMind's form. SPM: a folder with SentencePiece models. Writes OUT/<case>/... and
OUT/expected.json: {case: [{"text", "ids" (no special tokens added), "raw" (tokenizer(text)), "decoded"}]}."""
import json, shutil, sys, warnings
from pathlib import Path
warnings.filterwarnings("ignore")
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging
logging.set_verbosity_error()

BASE, SPM, OUT = (Path(a) for a in sys.argv[1:4])
TEXTS = ["a<|extra|>b", "Hello, world!  two spaces", " <|extra|>  x", "<|plain|> a<|plain|>", "<|im_start|>user\nhi<|im_end|>", "<|old|>and<|new|>", "naïve 한국어 🙂", "", "x <|strip|>  y", "word<|word|>word <|word|> x"]
SMALL = [t for t in TEXTS if "<" not in t] + ["the river otter", "two  spaces", "it's 305!"]
expected = {}


def token(content, **flags):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": False, **flags}


def case(name, config, others={}, change=None):
    p = OUT / name; p.mkdir(parents=True)
    t = json.loads((BASE / "tokenizer.json").read_text(encoding="utf-8"))
    if change: change(t)
    (p / "tokenizer.json").write_text(json.dumps(t, ensure_ascii=False), encoding="utf-8")
    (p / "tokenizer_config.json").write_text(json.dumps(config))
    for file, content in others.items(): (p / file).write_text(json.dumps(content))
    answer(name, p, TEXTS)


def answer(name, p, texts):
    tokenizer = AutoTokenizer.from_pretrained(p)
    rows = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        rows.append(dict(text=text, ids=ids, raw=tokenizer(text)["input_ids"], decoded=tokenizer.decode(ids, clean_up_tokenization_spaces=False), bare=tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)))
    expected[name] = dict(rows=rows, bos=tokenizer.bos_token_id, eos=tokenizer.eos_token_id, size=len(tokenizer))


def processed(t):
    t["post_processor"] = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}}}


fast = {"tokenizer_class": "PreTrainedTokenizerFast"}
case("no_begin", {**fast, "bos_token": None, "eos_token": "<|im_end|>"})
case("no_config_keys", fast)
case("add_bos", {**fast, "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "add_bos_token": True})
case("add_both", {**fast, "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "add_bos_token": True, "add_eos_token": True})
case("processor", {**fast, "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}, change=processed)
case("processor_overruled", {**fast, "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "add_bos_token": False}, change=processed)
high = lambda *tokens: {str(i + 100000): t for i, t in enumerate(tokens)}
case("decoder", {**fast, "eos_token": "<|im_end|>", "added_tokens_decoder": high(token("<|extra|>", special=True), token("<|plain|>", normalized=True), token("<|strip|>", lstrip=True, rstrip=True, special=True), token("<|word|>", single_word=True))})
case("decoder_and_named", {**fast, "eos_token": "<|old|>", "pad_token": {"__type": "AddedToken", "content": "<|new|>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}, "added_tokens_decoder": high(token("<|extra|>"))})
case("extra_list", {**fast, "eos_token": "<|im_end|>", "additional_special_tokens": ["<|extra|>", "<|new|>"], "added_tokens_decoder": {}})
case("older", {**fast}, {"added_tokens.json": {"<|extra|>": 100001, "<|plain|>": 100000}, "special_tokens_map.json": {"eos_token": "<|im_end|>", "bos_token": {"content": "<|extra|>", "lstrip": False, "normalized": False, "rstrip": True, "single_word": False}, "additional_special_tokens": ["<|old|>"]}})
case("map_ignored", {**fast, "eos_token": "<|im_end|>", "added_tokens_decoder": {}}, {"special_tokens_map.json": {"eos_token": "<|extra|>"}, "added_tokens.json": {"<|plain|>": 100000}})
try:
    import sentencepiece
    for name, model, config in [("spm_llama", "bpe_bytes", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
                                ("spm_llama_bare", "bpe_bytes", {"tokenizer_class": "LlamaTokenizer"})]:
        p = OUT / name; p.mkdir(parents=True); shutil.copy(SPM / f"{model}.model", p / "tokenizer.model")
        (p / "tokenizer_config.json").write_text(json.dumps(config)); answer(name, p, SMALL)
except ImportError: pass
(OUT / "expected.json").write_text(json.dumps(expected))
print(len(expected), "folders")
