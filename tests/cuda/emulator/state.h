// What there is while a launch runs: fibers, blocks, clusters, barriers, messages. Of device_emulation.cpp alone.
#pragma once
#include "device_emulation.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <vector>

// Present only where a sanitizer's runtime was preloaded.
#define SANITIZER extern "C" __attribute__((weak))
SANITIZER void* __tsan_create_fiber(unsigned);
SANITIZER void* __tsan_get_current_fiber();
SANITIZER void __tsan_destroy_fiber(void*);
SANITIZER void __tsan_switch_to_fiber(void*, unsigned);
SANITIZER void __tsan_acquire(void*);
SANITIZER void __tsan_release(void*);
SANITIZER void __tsan_read_range(void*, unsigned long);
SANITIZER void __tsan_write_range(void*, unsigned long);
SANITIZER void __sanitizer_start_switch_fiber(void** fake_stack, const void* stack, size_t bytes);
SANITIZER void __sanitizer_finish_switch_fiber(void* fake_stack, const void** stack, size_t* bytes);
SANITIZER void __asan_unpoison_memory_region(const volatile void*, size_t);

namespace {

enum Schedule { IN_ORDER, LAST_FIRST, RANDOM, ONE_BLOCK_AHEAD };

constexpr unsigned LANES = 32, MOST_WORDS = 16;
constexpr size_t MOST_MESSAGES = 1 << 20;
constexpr long long MOST_TRANSACTION_BYTES = (1 << 20) - 1;
constexpr size_t STACK_BYTES = 128 << 10;  // launch.py has the compiler refuse functions that need too much of it

// One collective of a warp, from its first lane's arrival until its last lane has read.
struct Collective {
    unsigned mask = 0, arrived = 0, unread = 0, words = 0;
    const char* where = nullptr;
    long order = 0;
    unsigned values[LANES][MOST_WORDS] = {};
};

// A barrier in shared memory. Of two phases' orders one is that of the phase under way.
struct Mbarrier {
    unsigned arrivals = 0, pending = 0, phase = 0;
    long long bytes = 0;  // that are still expected; below zero: came before anybody expected them
    long order[2] = {};
};

struct Fiber;
struct Block;

struct Cluster {
    std::vector<Fiber*> fibers;
    std::vector<Block*> blocks;
    unsigned waiting = 0, returned = 0, barriers = 0;
    const char* where = nullptr;
    long order[2] = {};
};

struct Block {
    Cluster* cluster = nullptr;
    std::vector<Fiber*> fibers;
    std::vector<std::deque<Collective>> warps;  // a deque: growing moves nothing that a lane still reads
    unsigned char* shared = nullptr;
    std::map<const void*, Mbarrier> mbarriers;
    unsigned waiting = 0, returned = 0, barriers = 0;
    const char* where = nullptr;
    long order[2] = {};  // two: a fast thread may reach the next barrier before a slow one has left this
};

struct Fiber : EmulatedThread {
    Block* home = nullptr;
    unsigned index = 0, block_index = 0;  // in its block; of its block in the grid
    void* stack_pointer = nullptr;
    char* stack = nullptr;
    const char* where = nullptr;  // what it waits for
    const Mbarrier* looked_at = nullptr;  // whose phase was not over
    bool returned = false;
    unsigned long long priority = 0;
    void* tsan = nullptr;
    void* fake_stack = nullptr;
};

// 16 bytes on their way from one block to another.
struct Message {
    unsigned char* to;
    Block* block;
    Mbarrier* mbarrier;
    unsigned phase;  // of the mbarrier when it was sent
    unsigned words[4];
    const Fiber* from;
    const char* where;
};

bool less_urgent(const Fiber* a, const Fiber* b) { return a->priority > b->priority; }

// The state of the one launch that runs.
struct Run {
    const EmulatedLaunch* launch;
    void (*thread)(const void*);
    std::vector<Fiber*> ready, spinning;
    Message* under_way = nullptr;
    size_t messages = 0;
    std::string failure;
    unsigned long long random = 1, wakes = 0, progress = 0;
    unsigned blocks = 0, favourite = 0;
    long launched = 0, all_returned = 0;
    void *stack_pointer = nullptr, *tsan = nullptr, *fake_stack = nullptr;
    const void* stack = nullptr;
    size_t stack_bytes = 0;

    unsigned long long draw() {  // xorshift64*
        random ^= random >> 12, random ^= random << 25, random ^= random >> 27;
        return random * 0x2545f4914f6cdd1dull >> 16;
    }

    void wake(Fiber* f) {
        switch (launch->schedule) {
            case IN_ORDER: f->priority = (unsigned long long)f->block_index << 32 | f->index; break;
            case LAST_FIRST: f->priority = ~wakes++; break;
            case RANDOM: break;
            default: f->priority = (unsigned long long)((f->block_index + favourite) % blocks) << 32 | (draw() & ~0u);
        }
        ready.push_back(f);
        if (launch->schedule != RANDOM) std::push_heap(ready.begin(), ready.end(), less_urgent);
    }

    Fiber* take() {
        if (launch->schedule == RANDOM) std::swap(ready[draw() % ready.size()], ready.back());
        else std::pop_heap(ready.begin(), ready.end(), less_urgent);
        Fiber* f = ready.back();
        ready.pop_back();
        return f;
    }

    void wake_spinning(size_t i) {
        std::swap(spinning[i], spinning.back());
        Fiber* f = spinning.back();
        spinning.pop_back();
        wake(f);
    }

    void settle(Mbarrier&);
    void deliver(size_t);
    bool deliver_some();
    void fibers_until_done();
    void enter(Fiber*);
};

Run* run;

Fiber* self() { return static_cast<Fiber*>(emulated_thread); }
void released(void* order) { if (__tsan_release) __tsan_release(order); }
void acquired(void* order) { if (__tsan_acquire) __tsan_acquire(order); }
bool same(const char* a, const char* b) { return a == b || !strcmp(a, b); }

std::string name_of(const Fiber* f) {
    char text[120];
    snprintf(text, sizeof text, "block (%u, %u, %u) thread (%u, %u, %u)", f->block.x, f->block.y, f->block.z, f->thread.x,
             f->thread.y, f->thread.z);
    return text;
}

}  // namespace
