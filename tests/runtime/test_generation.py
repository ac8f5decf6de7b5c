"""`generate` under both policies: a row's logits are those of a fresh forward under its factors."""

import copy
import threading

import pytest
import torch
from small_models import (
    BOUNDARY,
    FAMILIES,
    LENGTHS,
    NUM_NEW,
    WINDOW,
    Fresh,
    build,
    check_steps,
    difference,
    factor_set,
    generate,
    padded,
    prompts,
    tokens,
)
from transformers import DynamicCache, GenerationConfig, TextGenerationPipeline, TextIteratorStreamer

import ropewalk
from ropewalk.errors import FactorsError, ModelError, SettingError

POLICIES = ("pin", "recompute")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_a_fresh_forward(family, policy):
    model = build(family)
    entries = factor_set(model)
    fresh = Fresh(model, entries)
    ropewalk.apply(model, entries, original_length=WINDOW)
    output = generate(model, **padded(prompts()), rope_policy=policy)
    check_steps(fresh, output, LENGTHS, policy)
    alone = generate(model, input_ids=prompts()[1], rope_policy=policy)
    check_steps(fresh, alone, LENGTHS[1:2], policy)
    assert torch.equal(alone.sequences[0], output.sequences[1, -12 - NUM_NEW :])


def test_the_two_policies_differ_before_the_boundary_and_agree_after(model, fresh):
    ids = tokens(1, 30)
    assert difference(fresh.steps(ids, 12, "pin")[:4], fresh.steps(ids, 12, "recompute")[:4]) > 1e-2
    assert torch.equal(fresh.steps(ids, 12, "pin")[-5:], fresh.steps(ids, 12, "recompute")[-5:])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "how",
    [
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 5},
        {"prefill_chunk_size": 7, "cache_implementation": "static"},
        {"use_cache": False},
        {"cache_implementation": "offloaded"},
    ],
    ids=str,
)
def test_however_the_cache_is_kept(model, fresh, policy, how):
    if how.get("cache_implementation") == "offloaded" and not torch.accelerator.is_available():
        pytest.skip("offloading needs an accelerator")
    output = generate(model, **padded(prompts()), rope_policy=policy, **how)
    check_steps(fresh, output, LENGTHS, policy)


@pytest.mark.parametrize("policy", POLICIES)
def test_sampling_repeats_itself_and_beams_score_what_they_say(model, fresh, policy):
    batch = padded(prompts())
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        runs.append(generate(model, **batch, do_sample=True, temperature=0.7, rope_policy=policy))
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    check_steps(fresh, runs[0], LENGTHS, policy)
    torch.manual_seed(8)
    other = generate(model, **batch, do_sample=True, temperature=0.7, rope_policy=policy)
    assert not torch.equal(runs[0].sequences, other.sequences)
    some = prompts((12, 20))
    beams = generate(
        model, **padded(some), num_beams=3, num_return_sequences=2, length_penalty=0.0, output_scores=True,
        rope_policy=policy,
    )  # fmt: skip
    for index, ids in enumerate(beams.sequences):
        length = some[index // 2].shape[1]
        own = ids[None, -length - NUM_NEW :]
        steps = fresh.steps(own, length, policy).log_softmax(-1)
        score = steps.gather(1, own[0, length:, None]).sum()
        assert abs(float(score - beams.sequences_scores[index])) < 1e-3


@pytest.mark.parametrize("policy", POLICIES)
def test_a_conversation_goes_on_as_if_read_anew(model, fresh, policy):
    first = generate(model, 4, input_ids=tokens(1, 10), rope_policy=policy)  # 14 tokens: the short factors
    ids = torch.cat((first.sequences, tokens(1, 5)), dim=1)
    cache = first.past_key_values
    second = generate(model, input_ids=ids, past_key_values=cache, rope_policy=policy)
    check_steps(fresh, second, [19], policy)
    assert second.past_key_values is cache
    third_ids = torch.cat((second.sequences, tokens(1, 2)), dim=1)
    read = []
    handle = model.model.embed_tokens.register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    third = generate(model, 3, input_ids=third_ids, past_key_values=cache, rope_policy=policy)
    handle.remove()
    assert read == [3, 1, 1], "a cache that is still right was read again"
    check_steps(fresh, third, [third_ids.shape[1]], policy)


def test_a_shared_prompt_is_copied_only_where_it_is_right(model, fresh):
    prefix, batch = tokens(1, 12), []
    with torch.no_grad():
        cache = model(input_ids=prefix, past_key_values=DynamicCache(config=model.config)).past_key_values
    for num_new in (2, 20):
        ids = torch.cat((prefix, tokens(1, 2, seed=num_new)), dim=1)
        output = generate(model, num_new, input_ids=ids, past_key_values=copy.deepcopy(cache))
        check_steps(fresh, output, [14], "pin")
        batch.append(output)
    unknown = fresh.twin(input_ids=prefix).past_key_values
    check_steps(fresh, generate(model, 2, input_ids=ids, past_key_values=unknown), [14], "pin")


def test_new_tokens_alone_are_refused_where_the_rest_must_be_read_again(model, fresh):
    first = generate(model, 4, input_ids=tokens(1, 8))
    mask = torch.ones(1, first.sequences.shape[1] + 2, dtype=torch.long)
    new = {"input_ids": tokens(1, 3), "attention_mask": mask}
    kept = copy.deepcopy(first.past_key_values)
    assert generate(model, 1, **new, past_key_values=kept).sequences.shape == (1, 4)
    with pytest.raises(ModelError, match="conversation"):
        generate(model, 10, **new, past_key_values=copy.deepcopy(first.past_key_values))
    with pytest.raises(ModelError, match="recompute"):
        generate(model, 1, **new, past_key_values=first.past_key_values, rope_policy="recompute")
    with pytest.raises(ModelError, match="attention_mask"):
        generate(model, 1, input_ids=tokens(1, 3), past_key_values=first.past_key_values)
    with ropewalk.pinned(model, 40):
        begun = generate(model, 4, input_ids=tokens(1, 8)).past_key_values
        generate(model, 10, **new, past_key_values=begun)
        with pytest.raises(FactorsError, match="pinned"):
            generate(model, 70, input_ids=tokens(1, 3))


def test_max_length_is_a_total_whatever_stands_beside(model, fresh):
    """14 tokens may become 24 in all; the padding of a batch must not make that 34."""
    batch = padded(prompts((12, 20)))
    output = model.generate(**batch, max_length=BOUNDARY, do_sample=False, return_dict_in_generate=True,
                            output_logits=True)  # fmt: skip
    entry = fresh.logits(output.sequences[:1, 8:], BOUNDARY)
    assert difference(entry[11:-1], torch.stack(output.logits, 1)[0]) < 1e-4


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
def test_what_may_grow_too_long_is_refused_before_anything_is_read(model, fresh):
    for policy in POLICIES:
        with pytest.raises(FactorsError, match="72"):
            generate(model, 60, input_ids=tokens(1, 12), rope_policy=policy)
    assert model.generate(tokens(1, 40), do_sample=False).shape[1] <= 60


def test_recompute_refuses_what_it_can_not_read_again(model, fresh):
    ids = tokens(1, 12)
    embeds = model.get_input_embeddings()(ids)
    for inputs, reason in (
        ({"input_ids": ids, "prompt_lookup_num_tokens": 2}, "assisted"),
        ({"input_ids": ids, "guidance_scale": 1.5}, "guidance_scale"),
        ({"inputs_embeds": embeds}, "inputs_embeds"),
    ):
        with pytest.raises(SettingError, match=reason):
            generate(model, **inputs, rope_policy="recompute")
    with pytest.raises(SettingError, match="pinned"), ropewalk.pinned(model, 40):
        generate(model, input_ids=ids, rope_policy="recompute")
    with pytest.raises(SettingError, match="switch"):
        generate(model, input_ids=ids, rope_policy="switch")
    with pytest.raises(ModelError, match="batching"):
        model.generate_batch([[3, 4]])


def test_drafts_guidance_and_embeddings_are_pinned(model, fresh):
    ids = tokens(1, 12)
    plain = generate(model, input_ids=ids)
    check_steps(fresh, plain, [12], "pin")
    lookup = model.generate(ids, max_new_tokens=NUM_NEW, min_new_tokens=NUM_NEW, do_sample=False,
                            prompt_lookup_num_tokens=3)  # fmt: skip
    assert torch.equal(lookup, plain.sequences)
    draft = model.generate(ids, max_new_tokens=NUM_NEW, min_new_tokens=NUM_NEW, do_sample=False,
                           assistant_model=build())  # fmt: skip
    assert torch.equal(draft, plain.sequences)
    embeds = model.get_input_embeddings()(ids)
    of_embeds = generate(model, inputs_embeds=embeds)
    assert torch.equal(of_embeds.sequences[0], plain.sequences[0, 12:])
    guided = generate(model, input_ids=ids, guidance_scale=1.5)
    check_steps(fresh, guided, [12], "pin")


def test_the_policy_can_be_a_default_of_the_model_or_of_a_configuration(model, fresh):
    ids = tokens(1, 12)
    config = GenerationConfig(max_new_tokens=NUM_NEW, do_sample=False, rope_policy="recompute")
    output = model.generate(ids, config, return_dict_in_generate=True, output_logits=True)
    check_steps(fresh, output, [12], "recompute")
    model.generation_config.rope_policy = "recompute"
    check_steps(fresh, generate(model, input_ids=ids), [12], "recompute")
    check_steps(fresh, generate(model, input_ids=ids, rope_policy="pin"), [12], "pin")


def test_a_pipeline_and_a_stream_take_the_policy(tiny_model, tiny_tokenizer):
    entries = factor_set(tiny_model)
    fresh = Fresh(tiny_model, entries)
    model = ropewalk.apply(tiny_model, entries, original_length=WINDOW)
    pipe = TextGenerationPipeline(model=model, tokenizer=tiny_tokenizer)
    text = "Twelve bytes"
    ids = tiny_tokenizer(text, return_tensors="pt").input_ids
    for policy in POLICIES:
        expected = generate(model, input_ids=ids, rope_policy=policy)
        check_steps(fresh, expected, [ids.shape[1]], policy)
        made = pipe(text, max_new_tokens=NUM_NEW, min_new_tokens=NUM_NEW, do_sample=False, rope_policy=policy,
                    add_special_tokens=True, return_tensors=True)  # fmt: skip
        assert made[0]["generated_token_ids"] == expected.sequences[0].tolist()
    streamer = TextIteratorStreamer(tiny_tokenizer, timeout=60)
    how = {"max_new_tokens": 4, "do_sample": False, "streamer": streamer, "rope_policy": "recompute"}
    thread = threading.Thread(target=model.generate, args=(ids,), kwargs=how)
    with ropewalk.pinned(model, 60):  # of this thread only
        thread.start()
        assert text in "".join(streamer)
        thread.join()


def test_two_threads_do_not_see_each_others_rows(model, fresh):
    outputs = {}

    def run(length):
        for _ in range(3):
            outputs[length] = generate(model, 10, input_ids=tokens(1, length), rope_policy="recompute")

    threads = [threading.Thread(target=run, args=(length,)) for length in (5, 12, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 3
    for length, output in outputs.items():
        check_steps(fresh, output, [length], "recompute")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
def test_an_adapter_may_stand_around_the_model():
    peft = pytest.importorskip("peft")
    inner = build()
    adapted = peft.get_peft_model(
        inner, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    adapted.eval()
    entries = factor_set(inner)
    fresh = Fresh(adapted, entries)
    ropewalk.apply(adapted, entries)
    for policy in POLICIES:
        check_steps(fresh, generate(adapted, **padded(prompts()), rope_policy=policy), LENGTHS, policy)
