// 16-bit numbers as bits, with the conversions of the hardware: exact to f32, to nearest even from it.
#pragma once

#include <cstdint>
#include <cstring>

struct __half {
    uint16_t bits;
};

struct __nv_bfloat16 {
    uint16_t bits;
};

namespace emulator {

inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

inline float widen(__half x) {
    // Exponents are rebased by a product, which is exact for denormals too.
    const uint32_t bits = (x.bits & 0x7fffu) << 13, sign = (x.bits & 0x8000u) << 16;
    const bool finite = (x.bits & 0x7c00u) != 0x7c00u;
    const uint32_t magnitude = finite ? bits_of(from_bits(bits) * 0x1p112f) : bits | 0x7f800000u;
    return from_bits(magnitude | sign);
}

inline float widen(__nv_bfloat16 x) { return from_bits(static_cast<uint32_t>(x.bits) << 16); }

inline __half narrow_half(float x) {
    const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {0x7fff};
    // Half-way between the largest number and the next: even is infinity.
    if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
    if (magnitude < 0x38800000u) {
        // A denormal: the unit in the last place of 0.5 is theirs, so the sum rounds as it should.
        const uint32_t sum = bits_of(from_bits(magnitude) + 0.5f);
        return {static_cast<uint16_t>(sign | (sum - 0x3f000000u))};
    }
    magnitude += 0xfffu + (magnitude >> 13 & 1);
    return {static_cast<uint16_t>(sign | ((magnitude - 0x38000000u) >> 13))};
}

inline __nv_bfloat16 narrow_bfloat(float x) {
    const uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

}  // namespace emulator
