"""Neutral values: fields of other servers that this one does not have, with the values that mean
what happens anyway.

Clients and benchmarks send them always (`ignore_eos: false`, `repetition_penalty: 1.0`). One table
for all dialects: a value that would change the answer is a 400 that names it, in each of them.
"""

from __future__ import annotations

from typing import Any

from abruzzi.server.fields import Fields

NOT_HERE = "this server does not have it"
_COUNTS_FROM_MAX = "say max_tokens"
_FORM = "use response_format, tool_choice or strict"
_LAYOUT = "a chat is rendered in the model's own format"

# Switches: the values that leave them off, or on where that is what happens.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    # penalties
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "repeat_penalty": (1,),
    "encoder_repetition_penalty": (1,),
    "length_penalty": (1,),
    "diversity_penalty": (0,),
    "penalty_alpha": (0,),
    "no_repeat_ngram_size": (0,),
    "logit_bias": ({}, []),
    "bad_words": ([],),
    "logits_processors": ([],),
    # samplers
    "do_sample": (True,),
    "use_beam_search": (False,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "early_stopping": (False,),
    "typical_p": (1,),
    "typical": (1,),
    "tfs_z": (1,),
    "tfs": (1,),
    "top_a": (0,),
    "top_n_sigma": (-1, 0),
    "nsigma": (0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "smoothing_factor": (0,),
    "dynamic_temperature": (False,),
    "dynatemp_range": (0,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "guidance_scale": (1,),
    "cfg_scale": (1,),
    "negative_prompt": ("",),
    "watermark": (False,),
    "min_keep": (0,),
    "best_of": (1,),
    "n": (1,),
    # where an answer ends
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "min_new_tokens": (0,),
    "min_length": (0,),
    "n_predict": (-1,),
    "n_keep": (0, -1),
    "n_indent": (0,),
    "t_max_predict_ms": (0, -1),
    "t_max_prompt_ms": (0, -1),
    "include_stop_str_in_output": (False,),
    "no_stop_trim": (False,),
    "stop_regex": ("", []),
    # how text is made
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),
    "add_special_tokens": (True, False),  # none of the formats has any but those of a chat
    "detokenize": (True,),
    "echo": (False,),
    "suffix": ("",),
    "return_full_text": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": ("",),
    "chat_template_kwargs": ({},),
    "template": ("",),
    "raw": (False,),
    "documents": ([],),
    "truncation": ("disabled", "auto"),  # what does not fit is an error, with either
    # forms
    "functions": ([],),
    "function_call": ("none", "auto"),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parse_tool_calls": (True,),
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "format": ("",),
    "grammar": ("",),
    "ebnf": ("",),
    "regex": ("",),
    "guided_json": (),
    "guided_regex": ("",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "structural_tag": ("",),
    # what comes beside the text
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "n_probs": (0,),
    "top_n_tokens": (0,),
    "top_logprobs_num": (0,),
    "return_logprob": (False,),
    "post_sampling_probs": (False,),
    "decoder_input_details": (False,),
    "return_token_ids": (False,),
    "return_tokens": (False,),
    "return_tokens_as_token_ids": (False,),
    "return_hidden_states": (False,),
    "return_routed_experts": (False,),
    "return_progress": (False,),
    "timings_per_token": (False,),
    "response_fields": ([],),
    "include_reasoning": (True,),
    "separate_reasoning": (True,),
    "stream_reasoning": (True,),
    "reasoning_format": ("auto", "deepseek"),
    "reasoning_in_content": (False,),
    "thinking_forced_open": (False,),
    "verbosity": ("medium",),
    "usage": ({"include": True}, {"include": False}),
    # what else a request may bring
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "images": ([],),
    "image_data": ([],),
    "mm_processor_kwargs": ({},),
    "media_io_kwargs": ({},),
    "mcp_servers": ([],),
    "plugins": ([],),
    "container": (),
    "lora": ([],),
    "lora_path": ("",),
    "adapter_id": ("",),
    "models": ([],),
    "transforms": ([],),
    "options": ({},),
    "extra_body": ({},),
    "extra_headers": ({},),
    "extra_query": ({},),
    "session_params": ({},),
    "custom_params": ({},),
    "kv_transfer_params": ({},),
    "vllm_xargs": ({},),
    "cache_prompt": (True,),
    "cache_salt": ("",),
    "id_slot": (-1,),
    "slot_id": (-1,),
    "priority": (0,),
    "store": (False,),
    "background": (False,),
    "service_tier": ("auto", "default", "standard", "standard_only"),
    "speed": ("standard",),
    "inference_geo": ("global", "not_available"),
}

# Any value: labels that a client attaches for itself, and what tunes a switch above that is off.
LABELS = (
    *("user", "metadata", "request_id", "rid", "session_id", "safety_identifier"),
    *("prompt_cache_key", "prompt_cache_retention", "client_metadata", "keep_alive", "ttl"),
    *("betas", "anthropic_version", "anthropic_beta", "cache_control"),
    *("mirostat_tau", "mirostat_eta", "repeat_last_n", "penalty_last_n", "repetition_penalty_range", "penalize_nl"),
    *("dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "xtc_threshold"),
    *("dynatemp_exponent", "dynatemp_low", "dynatemp_high", "smoothing_curve", "n_discard"),
    *("guided_decoding_backend", "guided_whitespace_pattern"),
)

HINTS = {
    "best_of": "choose among n yourself",
    "suffix": "this model does not fill gaps",
    "n": "send the request several times",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "modalities": "text only",
    "audio": "text only",
    "images": "text only",
    "image_data": "text only",
    "store": "nothing is stored",
    "service_tier": "there is one tier",
    "n_predict": _COUNTS_FROM_MAX,
    "chat_template": _LAYOUT,
    "template": _LAYOUT,
    **dict.fromkeys(
        ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "format"), _FORM
    ),
    **dict.fromkeys(("grammar", "ebnf", "regex", "structural_tag"), _FORM),
}


def read_neutral(body: Fields) -> None:
    """The fields of the table that the dialect has not read itself. Raises ApiError for a value
    with a meaning."""
    for name in body.unread(NEUTRAL):
        body.only(name, *NEUTRAL[name], hint=HINTS.get(name, NOT_HERE))
    for name in body.unread(LABELS):
        body.raw(name, {})
