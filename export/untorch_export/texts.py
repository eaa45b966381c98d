"""Real text for parity and golden cases: written for this project, in several languages, short, long and odd."""

from __future__ import annotations

_PLAIN = (
    "The soup was warm, the bread was fresh, and nobody hurried us out.",
    "I waited forty minutes for a cold plate of pasta.",
    "It does what the box says, no more and no less.",
    "What a stunning performance, I would watch it again tonight!",
    "The plot falls apart long before the ending arrives.",
    "Our train left on time and arrived early.",
    "Please send the signed contract back before Friday noon.",
    "Not bad at all.",
    "I can't say that I enjoyed it, although the music was lovely.",
    "The battery lasts two days, which is twice what the old one managed.",
    "She never once raised her voice, and everybody listened.",
    "Terrible.",
    "The museum opens at nine and closes at half past five.",
    "Nothing about this film feels honest.",
    "A quiet, patient and surprisingly funny story about two brothers.",
    "The update deleted my settings and then crashed.",
    "If only the second half were as clever as the first.",
    "Maria moved from Lisbon to Oslo in 2014 to work at the harbour.",
    "How many moons does Jupiter have?",
    "Thank you so much, this made my whole week.",
    "The room smelled of smoke and the window would not open.",
    "We measured 3.14 V at pin 7, well below the 5 V limit.",
    "Don't buy this; mine broke after a single wash.",
    "An old fisherman taught us how to read the clouds.",
)
_OTHERS = (
    "Das Essen war kalt, aber die Bedienung war sehr freundlich.",
    "Je n'ai jamais vu un coucher de soleil aussi beau.",
    "La batería no dura ni medio día, una decepción.",
    "Il treno è in ritardo, come sempre.",
    "O hotel fica perto da praia e o café é ótimo.",
    "Bu kitabı bir gecede bitirdim.",
    "Погода сегодня прекрасная, пойдём гулять.",
    "Η θάλασσα ήταν ήρεμη εκείνο το πρωί.",
    "这家餐厅的面条很好吃。",
    "この映画は長すぎると思います。",
    "배송이 빨라서 정말 만족해요.",
    "هذا الكتاب ممل جدا.",
    "यह फ़ोन बहुत अच्छा है।",
)
_ODD = (
    "ok",
    "!!! ??? ...",
    "Best. Day. Ever. 🎉🎉",
    "GREAT PRODUCT WOULD BUY AGAIN",
    "visit https://example.org/a?b=1&c=2 for the full report",
    "the the the the the the the the the the the the the the the the",
    "price: 1,299.00 (was 1,499.00), colour = red/blue; size > 12",
)
_SINGLE = _PLAIN + _OTHERS + _ODD

# Two sentences in a row, so that lengths spread and opposite opinions meet: 100 texts in all.
TEXTS: tuple[str, ...] = (
    *_SINGLE,
    *(
        f"{_SINGLE[index % len(_SINGLE)]} {_PLAIN[(index * 7 + 5) % len(_PLAIN)]}"
        for index in range(100 - len(_SINGLE))
    ),
)

# Short ones for the golden file, which every bundle carries.
GOLDEN_TEXTS: tuple[str, ...] = (_PLAIN[3], _PLAIN[11], _PLAIN[7], _OTHERS[1])
