"""Real text for parity, golden cases and int8 ranges: written for this project, in several languages and lengths."""

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

# Texts for the whole road, one of each kind: plain, other languages and scripts, capitals, marks, nothing at all.
ROAD_TEXTS: tuple[str, ...] = (_PLAIN[9], _PLAIN[17], _PLAIN[21], _OTHERS[1], _OTHERS[6], _OTHERS[8], *_ODD[1:5], "")

# Short ones for the golden file, which every bundle carries.
GOLDEN_TEXTS: tuple[str, ...] = (_PLAIN[3], _PLAIN[11], _PLAIN[7], _OTHERS[1])

# Texts that set the ranges of int8. None of them is compared with PyTorch afterwards.
CALIBRATION_TEXTS: tuple[str, ...] = (
    "A brilliant, tender film that earns every one of its tears.",
    "Worst purchase of the year, and I bought a broken umbrella.",
    "Fine.",
    "He parked the van behind the library and walked the rest of the way.",
    "The committee will vote on the second draft next Tuesday at ten.",
    "Our waiter forgot the order twice, then charged us for both.",
    "Slow, loud, clumsy and far too long!",
    "You can feel how much care went into every single frame.",
    "Is there a later bus to the airport on Sundays?",
    "Turn left after the bakery, cross the bridge, and the clinic is on your right.",
    "The recipe asks for 250 g of flour, 3 eggs and a pinch of salt.",
    "I laughed so hard that the people behind us moved.",
    "It is neither as clever nor as funny as it believes itself to be.",
    "Professor Okafor published her findings in the spring of 1998.",
    "The keyboard is comfortable, but two of the keys stopped working within a week.",
    "No plot, no pace, no point.",
    "Snow fell through the night and by morning the road to the village was closed.",
    "Charming from the first minute to the last.",
    "Why would anybody pay for this?",
    "The bank raised its rates by a quarter of a percent, as everyone had expected.",
    "My grandmother kept the letters in a tin under the stairs, tied with blue string.",
    "An honest attempt, let down by a script that explains every joke.",
    "Version 2.4.1 fixes the crash on start-up and reduces memory use.",
    "The orchestra played without a conductor, and nobody in the hall noticed.",
    "I would recommend the hotel to my worst enemy.",
    "He scored twice in the last five minutes and ran straight to his father.",
    "Utterly forgettable.",
    "The harbour, the market and the old fort are all within walking distance of the station, and most "
    "visitors see the three of them in one unhurried afternoon before taking the ferry back to the islands.",
    "Although the first act drags and the villain never frightens, the last half hour is so daring, so "
    "beautifully shot and so sure of itself that I forgave the film everything that had come before it.",
    "We called the support line four times, waited more than an hour each time, were promised a refund by "
    "three different people, and to this day neither the money nor an apology has arrived.",
    "Die Handlung ist dünn, aber die Bilder sind großartig.",
    "Le service était lent et la soupe froide.",
    "Una película preciosa, aunque demasiado larga.",
    "Non comprerei mai più questo prodotto.",
    "Отличный сервис, быстро и вежливо.",
    "我非常喜欢这本书的结尾。",
    "この店のラーメンは最高です。",
    "الفيلم طويل لكنه جميل.",
    "lol so good!!! 10/10 would watch again :)",
    "NOT worth it. Do NOT buy.",
    "$49.99 + tax @ the mall, 30% off until 31/12",
)
