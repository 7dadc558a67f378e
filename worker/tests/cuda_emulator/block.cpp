#include "block.h"

namespace emulator {

Block block;

Outcome Block::run(unsigned thread_count, size_t shared_bytes, void (*new_body)(void*), void* new_argument) {
    body = new_body;
    argument = new_argument;
    count = thread_count;
    done = barrier_arrived = 0;
    result = OK;
    if (threads.size() < count) threads.resize(count);
    if (warps.size() < count / LANES) warps.resize(count / LANES);
    for (unsigned i = 0; i < count; i++) {
        threads[i].context.begin(stacks.stack(i), Stacks::SIZE, enter);
        threads[i].copies.clear();
        threads[i].watched = nullptr;
        threads[i].done = false;
    }
    for (Warp& warp : warps) {
        warp.arrived = 0;
        warp.alive = LANES;
    }
    for (const SharedArea& area : areas) memset(area.at, POISON, area.bytes);
    // Exactly as long as asked for, so that a sanitizer sees every byte too many.
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, shared_bytes + CANARIES) != 0) abort();
    shared = static_cast<unsigned char*>(memory);
    shared_size = shared_bytes;
    memset(shared, POISON, shared_bytes);
    memset(shared + shared_bytes, CANARY, CANARIES);

    current = backwards ? count - 1 : 0;
    thread_index = {current, 0, 0};
    main.switch_to(threads[current].context);

    for (size_t i = 0; i < CANARIES && result == OK; i++) {
        if (shared[shared_bytes + i] != CANARY) {
            result = MISUSE;
            snprintf(message, sizeof message, "byte %zu after dynamic shared memory was written", i);
        }
    }
    free(memory);
    shared = nullptr;
    return result;
}

void Block::enter() {
    block.body(block.argument);
    block.finish_thread();
}

void Block::finish_thread() {
    Thread& here = threads[current];
    check(here.copies.empty(), "returned without waiting for its copies");
    here.done = true;
    done++;
    Warp& warp = warps[current / LANES];
    warp.alive--;
    if (warp.arrived > 0) {
        const Meeting& meeting = warp.meetings[warp.generation % 2];
        check(meeting.kind == Collective::Barrier, "returned while its warp waits for it");
        if (warp.arrived == warp.alive) {
            warp.arrived = 0;
            warp.generation++;
        }
    }
    release_block_barrier();
    if (done == count) here.context.switch_to(main);
    yield();
    fail(DEADLOCK, "returned, and nobody else can go on");
}

void Block::release_block_barrier() {
    if (barrier_arrived > 0 && barrier_arrived + done == count) {
        barrier_arrived = 0;
        barrier_generation++;
    }
}

bool Block::yield() {
    const unsigned here = current, warp = here / LANES, warp_count = count / LANES;
    const auto go_on = [&](unsigned next) {
        if (!threads[next].can_run()) return false;
        current = next;
        thread_index = {next, 0, 0};
        threads[next].watched = nullptr;
        threads[here].context.switch_to(threads[next].context);
        return true;
    };
    for (unsigned i = 1; i < LANES; i++) {
        const unsigned step = backwards ? LANES - i : i;
        if (go_on(warp * LANES + (here + step) % LANES)) return true;
    }
    for (unsigned w = 1; w < warp_count; w++) {
        const unsigned other = (warp + (backwards ? warp_count - w : w)) % warp_count;
        for (unsigned i = 0; i < LANES; i++) {
            if (go_on(other * LANES + (backwards ? LANES - 1 - i : i))) return true;
        }
    }
    return false;
}

void Block::wait_for(const unsigned& generation) {
    Thread& here = threads[current];
    here.watched = &generation;
    here.seen = generation;
    if (!yield()) fail(DEADLOCK, "waits, and nobody can go on");
}

void Block::block_barrier() {
    const unsigned before = barrier_generation;
    barrier_arrived++;
    release_block_barrier();
    if (barrier_generation == before) wait_for(barrier_generation);
}

const unsigned (&Block::collective(Collective kind, unsigned detail, const Share& share))[4] {
    const unsigned lane = current % LANES;
    Warp& warp = warps[current / LANES];
    Meeting& meeting = warp.meetings[warp.generation % 2];
    check(kind == Collective::Barrier || warp.alive == LANES, "a collective of a warp of which lanes have returned");
    if (warp.arrived == 0) {
        meeting.kind = kind;
        meeting.detail = detail;
    }
    check(meeting.kind == kind && meeting.detail == detail, "lanes of a warp do different things");
    meeting.shares[lane] = share;
    if (++warp.arrived < warp.alive) {
        wait_for(warp.generation);
    } else {
        complete(meeting);
        warp.arrived = 0;
        warp.generation++;
    }
    return meeting.results[lane];
}

void Block::complete(Meeting& meeting) {
    for (unsigned lane = 0; lane < LANES; lane++) {
        unsigned(&out)[4] = meeting.results[lane];
        switch (meeting.kind) {
            case Collective::Barrier: break;
            case Collective::Shuffle: out[0] = meeting.shares[lane ^ meeting.detail].words[0]; break;
            case Collective::Load:
                for (unsigned m = 0; m < 4; m++) memcpy(&out[m], meeting.shares[8 * m + lane / 4].row + lane % 4 * 4, 4);
                break;
            case Collective::LoadTransposed:
                for (unsigned m = 0; m < 4; m++) {
                    uint16_t pair[2];
                    const unsigned row = 8 * m + lane % 4 * 2, column = lane / 4;
                    memcpy(&pair[0], meeting.shares[row].row + 2 * column, 2);
                    memcpy(&pair[1], meeting.shares[row + 1].row + 2 * column, 2);
                    memcpy(&out[m], pair, 4);
                }
                break;
            case Collective::MultiplyHalf: return multiply<__half>(meeting);
            case Collective::MultiplyBfloat: return multiply<__nv_bfloat16>(meeting);
        }
    }
}

// mma.m16n8k16, fragments as the PTX ISA documents them. Results are products; each lane adds its own to `c`.
template <class T> void Block::multiply(Meeting& meeting) {
    const auto number = [](unsigned word, unsigned high) {
        return widen(T{static_cast<uint16_t>(high ? word >> 16 : word & 0xffff)});
    };
    float a[16][16], b[16][8], c[16][8] = {};
    for (unsigned lane = 0; lane < LANES; lane++) {
        const Share& share = meeting.shares[lane];
        const unsigned group = lane / 4, pair = lane % 4 * 2;
        for (unsigned high = 0; high < 2; high++) {
            for (unsigned i = 0; i < 4; i++) {
                a[group + i % 2 * 8][pair + i / 2 * 8 + high] = number(share.words[i], high);
            }
            for (unsigned i = 0; i < 2; i++) b[pair + i * 8 + high][group] = number(share.words[4 + i], high);
        }
    }
    for (unsigned row = 0; row < 16; row++) {
        for (unsigned k = 0; k < 16; k++) {
            for (unsigned column = 0; column < 8; column++) c[row][column] += a[row][k] * b[k][column];
        }
    }
    for (unsigned lane = 0; lane < LANES; lane++) {
        const unsigned group = lane / 4, pair = lane % 4 * 2;
        memcpy(&meeting.results[lane][0], &c[group][pair], 8);
        memcpy(&meeting.results[lane][2], &c[group + 8][pair], 8);
    }
}

void Block::start_copy(void* to, const void* from, unsigned bytes) {
    check_shared(to, 16);
    check_aligned(from, 16);
    check(bytes == 0 || bytes == 16, "a copy of neither 0 nor 16 bytes");
    memset(to, POISON, 16);
    threads[current].copies.push_back({to, from, bytes});
}

void Block::finish_copies() {
    std::vector<Copy>& copies = threads[current].copies;
    for (const Copy& copy : copies) {
        memset(copy.to, 0, 16);
        memcpy(copy.to, copy.from, copy.bytes);
    }
    copies.clear();
}

}  // namespace emulator
