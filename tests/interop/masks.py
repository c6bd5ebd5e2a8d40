"""Which tokens carry loss: ours beside transformers' own masks, and beside masks computed here from the template alone.

usage: python masks.py MINIMIND TOKENIZER OUT   (a Python with transformers)
Templates with {% generation %} blocks: apply_chat_template(return_assistant_tokens_mask=True). Others: what each turn of
the assistant adds to the prompt before it, by the tokenizer's own offsets. Every row of every template, seed 0."""
import json, random, subprocess, sys
from pathlib import Path
from transformers import AutoTokenizer

BINARY, OWN, OUT = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
OURS = ["<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"]
S = ["<s>", "</s>", "[INST]", "[/INST]"]
LLAMA = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]

BLOCKS = {
    "chatml": ([], "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"),
    "lines": ([], "{%- for m in messages %}\n    {%- if m.role == 'assistant' -%}\n        <|im_start|>assistant\n        {%- generation -%}\n        {{ '\n' + m.content | trim + '<|im_end|>' }}\n        {%- endgeneration -%}\n    {%- else -%}\n        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}\n    {%- endif -%}\n{% endfor %}"),
    "trimmed lines": ([], "{% for m in messages %}\n{% if m.role == 'assistant' %}\n<|im_start|>assistant\n{% generation %}\n{{ m.content }}<|im_end|>\n{% endgeneration %}\n{% else %}\n<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}\n{% endfor %}"),
    "llama3": (LLAMA, "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"),
    "thoughts": ([], "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% if not loop.last %}{{ m.content.split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}{% else %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% endif %}{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"),
}
OTHERS = {
    "chatml": ([], "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"),
    "chatml without its tokens": (["<x>", "<y>"], "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"),
    "llama3": (LLAMA, "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content|trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"),
    "mistral": (S, "{{ bos_token }}{% for m in messages %}{% if m.role != 'assistant' %}{{ '[INST] ' + m.content + '[/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"),
    "gemma": (["<start_of_turn>", "<end_of_turn>"], "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"),
    "zephyr": (S, "{% for m in messages %}\n{% if m['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + m['content'] + eos_token }}\n{% else %}\n{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"),
    "glm": (["<|user|>", "<|assistant|>", "<|system|>"], "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"),
    "deepseek": (["<bos>", "<eos>", "<User>", "<Assistant>"], "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}{{ '<User>' + m.content + '<Assistant>' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"),
    "alpaca": ([], "{% for m in messages %}{% if m.role == 'assistant' %}{{ '### Response:\n' + m.content + '\n\n' }}{% else %}{{ '### Instruction:\n' + m.content + '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"),
}
WORDS = ["otters", "eat", "fish.", "Grüße", "世界", "🙂", "ja!", "\n", "\n\n", "  ", "1 + 1 = 2", "(x)", "'s", "assistant", "user", "<b>", "é", "한국어", "```py\nx\n```", "-", "?"]


def rows():
    rng = random.Random(0)
    text = lambda: rng.choice(["a", ""]) + " ".join(rng.choices(WORDS, k=rng.randint(1, 9))) + rng.choice(["z", ".", "\n.", "🙂"])
    for i in range(40):
        turns = [{"role": "system", "content": text()}] if i % 3 == 0 else []
        for _ in range(rng.randint(1, 3)):
            turns += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
        yield turns


def folder(name, marks, template):
    text = (OWN / "tokenizer.json").read_text(encoding="utf-8")
    for ours, theirs in zip(OURS, marks): text = text.replace(json.dumps(ours), json.dumps(theirs))
    config = dict(bos_token=(marks or OURS)[0], eos_token=(marks or OURS)[1], pad_token="<|endoftext|>", tokenizer_class="PreTrainedTokenizerFast", chat_template=template)
    path = OUT / name.replace(" ", "_"); path.mkdir(parents=True)
    (path / "tokenizer.json").write_text(text, encoding="utf-8"); (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def blocks(tok, turns):
    out = tok.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    return out["input_ids"], out["assistant_masks"]


def added(tok, turns):
    render = lambda part, prompt=False: tok.apply_chat_template(part, tokenize=False, add_generation_prompt=prompt)
    text, spans = render(turns), []
    for i, turn in enumerate(turns):
        if turn["role"] == "assistant":
            before, after = render(turns[:i], True), render(turns[:i + 1])
            assert text.startswith(before) and text.startswith(after), "this template has another test"
            spans.append((len(before), len(after)))
    out = tok(text, add_special_tokens=False, return_offsets_mapping=True)
    return out["input_ids"], [int(any(a < end and start < b for start, end in spans)) for a, b in out["offset_mapping"]]


count = 0
for kind, templates, mask in [("blocks", BLOCKS, blocks), ("turns", OTHERS, added)]:
    for name, (marks, template) in templates.items():
        path = folder(f"{kind} {name}", marks, template); tok = AutoTokenizer.from_pretrained(path)
        data = path / "rows.jsonl"; conversations = list(rows())
        data.write_text("".join(json.dumps({"conversations": c}, ensure_ascii=False) + "\n" for c in conversations), encoding="utf-8")
        made = subprocess.run([BINARY, "data", "show", "--json", "--rows", "1000", "--tokenizer", path, data], capture_output=True, text=True, encoding="utf-8")
        assert made.returncode == 0, (kind, name, made.stderr)
        shown = json.loads(made.stdout)
        assert len(shown) == len(conversations)
        for ours, turns in zip(shown, conversations):
            ids, loss = mask(tok, turns)
            theirs = [i if m else -100 for i, m in zip(ids, loss)]
            assert sum(loss) > 0 and ours["input_ids"] == list(ids), (kind, name, turns, ours["text"])
            assert ours["labels"] == theirs, (kind, name, turns, [tok.decode([i]) for i, a, b in zip(ids, ours["labels"], theirs) if a != b])
            count += 1
print("equal", count, "rows")
