"""Which tokenizer class a model type has when nothing names one (facts of transformers 4.57.6)."""

from __future__ import annotations

_MODEL_TYPES = {
    "Albert": "albert nystromformer yoso",
    "Bart": "bart",
    "Barthez": "barthez",
    "Bert": (
        "align bark bert blip bros chinese_clip ernie git grounding-dino megatron-bert mm-grounding-dino "
        "nezha qdqbert tvp vilt visual_bert"
    ),
    "BigBird": "big_bird",
    "Blenderbot": "blenderbot",
    "Bloom": "bloom",
    "CLIP": "aimv2 clip clipseg groupvit omdet-turbo oneformer owlv2 owlvit xclip",
    "Camembert": "camembert",
    "CodeGen": "codegen phi",
    "CodeLlama": "code_llama",
    "Cohere": "aya_vision cohere cohere2",
    "ConvBert": "convbert",
    "DPRQuestionEncoder": "dpr",
    "Deberta": "deberta",
    "DebertaV2": "deberta-v2",
    "DistilBert": "distilbert",
    "Electra": "electra",
    "FNet": "fnet",
    "Funnel": "funnel",
    "GPT2": (
        "blip-2 dbrx emu3 exaone4 flex_olmo gpt2 gpt_bigcode gpt_neo gptj instructblip instructblipvideo "
        "minimax olmo3 opt starcoder2"
    ),
    "GPTNeoX": "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmo2 olmoe rwkv stablelm xlstm",
    "Gemma": ("gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma shieldgemma2 siglip2 t5gemma"),
    "Herbert": "herbert",
    "LED": "led",
    "LayoutLM": "layoutlm",
    "Llama": (
        "arcee aria chameleon colpali deepseek_v2 deepseek_v3 deepseek_vl deepseek_vl_hybrid diffllama "
        "ernie4_5 ernie4_5_moe idefics idefics2 idefics3 jamba janus jetmoe llama llama4 llama4_text "
        "llava llava_next llava_next_video llava_onevision ministral mistral mistral3 mixtral mllama "
        "paligemma persimmon phi3 phimoe video_llava vipllava zamba zamba2"
    ),
    "Longformer": "longformer",
    "Lxmert": "lxmert",
    "MBart": "mbart",
    "MBart50": "mbart50",
    "MPNet": "mpnet",
    "MT5": "mt5",
    "MobileBert": "mobilebert",
    "Mvp": "mvp",
    "Nllb": "nllb nllb-moe",
    "OpenAIGPT": "openai-gpt",
    "Pegasus": "bigbird_pegasus pegasus pegasus_x",
    "Qwen2": (
        "colqwen2 internvl qwen2 qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl qwen3 qwen3_moe "
        "qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe"
    ),
    "Realm": "realm",
    "Reformer": "reformer",
    "RemBert": "rembert",
    "RetriBert": "retribert",
    "Roberta": "bridgetower clap data2vec-text ibert mega mra roberta roberta-prelayernorm",
    "SeamlessM4T": "seamless_m4t seamless_m4t_v2",
    "Splinter": "splinter",
    "SqueezeBert": "squeezebert",
    "T5": "longt5 musicgen musicgen_melody pix2struct switch_transformers t5 umt5",
    "Whisper": "whisper",
    "XGLM": "xglm",
    "XLMRoberta": "kosmos-2 metaclip_2 xlm-roberta xlm-roberta-xl xmod",
    "XLNet": "xlnet",
}

TOKENIZER_OF = {model_type: f"{name}Tokenizer" for name, types in _MODEL_TYPES.items() for model_type in types.split()}
"""`model_type` of a config.json → `tokenizer_class`; absent types have none that changes anything."""
