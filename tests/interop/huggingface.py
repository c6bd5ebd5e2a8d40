"""Loads folders that we wrote as any user would and compares: logits, greedy tokens, text to ids, chat prompts.

Arguments: a folder with one subfolder a model, each with check.safetensors (ids, logits, prompt, greedy) and, where
it has a tokenizer, texts.json ({texts: [{text, ids}], chats: [{messages, prompt}]})."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

seen = 0
for folder in sorted(p for p in Path(sys.argv[1]).iterdir() if p.is_dir()):
    check = load_file(folder / "check.safetensors")
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    model = model.eval()
    assert not info["missing_keys"] and not info["unexpected_keys"], (folder.name, info)
    kind = next(model.parameters()).dtype
    with torch.no_grad():
        far = (model(check["ids"]).logits.float() - check["logits"]).abs().max().item()
    prompt = check["prompt"]
    wanted = check["greedy"].tolist()
    out = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=len(wanted),
        min_new_tokens=len(wanted), eos_token_id=-1, pad_token_id=0,
    )
    greedy = out[0, prompt.shape[1] :].tolist()
    print(f"{folder.name}: {type(model).__name__} {kind}, logits {far:.1e}")
    tolerance = 1e-4 if kind == torch.float32 else 5e-2
    assert far <= tolerance, (folder.name, far)
    assert kind != torch.float32 or greedy == wanted, (folder.name, greedy, wanted)
    texts = folder / "texts.json"
    if texts.exists():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        cases = json.loads(texts.read_text())
        for case in cases["texts"]:
            ids = tokenizer(case["text"], add_special_tokens=False)["input_ids"]
            assert ids == case["ids"], (folder.name, case["text"], ids, case["ids"])
            assert tokenizer(case["text"])["input_ids"] == case["ids"], "nothing is added unasked"
        for case in cases["chats"]:
            text = tokenizer.apply_chat_template(case["messages"], tokenize=False, add_generation_prompt=True)
            assert text == case["prompt"], (folder.name, text, case["prompt"])
        special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
        assert special == [1, 2, 0], special
        assert model.generation_config.eos_token_id == 2 and model.generation_config.do_sample
        print(f"{folder.name}: {len(cases['texts'])} texts, {len(cases['chats'])} chats as here")
    seen += 1
print(seen, "folders")
