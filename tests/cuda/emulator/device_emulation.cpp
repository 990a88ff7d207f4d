// The runtime behind device_emulation.h: fibers, schedules, barriers, warps, deadlocks.
//
// Everything runs on one thread of the CPU, so a schedule is a function of its seed and errors repeat. This file is
// never compiled with a sanitizer, so only the kernels' own accesses are watched; what orders them is told to
// ThreadSanitizer by `released` and `acquired`. Inside a fiber, memory is copied by loops: memcpy would be watched.
#include "state.h"

// ---- switching ----

// Saves what a call has to preserve, changes stacks, and returns on the other one.
extern "C" void emulated_switch(void** save, void* load);
#if defined(__x86_64__)
asm(".text\n.globl emulated_switch\n.type emulated_switch, @function\nemulated_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
constexpr int SAVED_REGISTERS = 6;
#else
#error "emulated_switch is written for x86-64"
#endif

EmulatedThread* emulated_thread = nullptr;

namespace {

void Run::enter(Fiber* f) {
    emulated_thread = f;
    if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&fake_stack, f->stack, STACK_BYTES);
    if (tsan) __tsan_switch_to_fiber(f->tsan, 1);  // 1: the switch itself orders nothing
    emulated_switch(&stack_pointer, f->stack_pointer);
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}

void leave() {
    Fiber* f = self();
    if (__sanitizer_start_switch_fiber)
        __sanitizer_start_switch_fiber(f->returned ? nullptr : &f->fake_stack, run->stack, run->stack_bytes);
    if (run->tsan) __tsan_switch_to_fiber(run->tsan, 1);
    emulated_switch(&f->stack_pointer, run->stack_pointer);
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(f->fake_stack, nullptr, nullptr);
}

void fiber_main() {
    if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(nullptr, &run->stack, &run->stack_bytes);
    acquired(&run->launched);
    run->thread(run->launch->arguments);
    Fiber* f = self();
    if (f->home->waiting) emulated_failure("a thread returns while its block waits", f->home->where);
    if (f->home->cluster->waiting) emulated_failure("a thread returns while its cluster waits", f->home->cluster->where);
    released(&run->all_returned);
    ++f->home->returned;
    ++f->home->cluster->returned;
    ++run->progress;
    f->returned = true;
    leave();
    abort();  // nobody wakes it again
}

// The stack as emulated_switch expects it: registers, then where to return to.
void prepare(Fiber* f, char* stack) {
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(stack, STACK_BYTES);
    f->stack = stack;
    void** top = reinterpret_cast<void**>(stack + STACK_BYTES);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(fiber_main);
    for (int i = 0; i < SAVED_REGISTERS; ++i) *--top = nullptr;
    f->stack_pointer = top;
}

// Address space for as many stacks, kept for the next launch: touching fresh pages costs more than a small kernel.
char* stacks_for(size_t fibers) {
    static char* stacks = nullptr;
    static size_t held = 0;
    if (fibers <= held) return stacks;
    if (held) munmap(stacks, held * STACK_BYTES);
    held = std::max(fibers, size_t(4096));
    void* fresh = mmap(nullptr, held * STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fresh == MAP_FAILED) held = 0;
    return stacks = fresh == MAP_FAILED ? nullptr : static_cast<char*>(fresh);
}

// Not by new, which ThreadSanitizer would watch: fibers share it.
Message* messages_of_launches() {
    static void* memory = mmap(nullptr, MOST_MESSAGES * sizeof(Message), PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? nullptr : static_cast<Message*>(memory);
}

void Run::settle(Mbarrier& m) {
    if (m.pending || m.bytes) return;
    ++m.phase;
    m.pending = m.arrivals;
    ++progress;
}

// What nobody looked for yet may be anywhere: messages overtake each other, and are as early or late as the schedule is.
void Run::deliver(size_t i) {
    std::swap(under_way[i], under_way[--messages]);
    const Message m = under_way[messages];
    const char* wrong = nullptr;
    if (m.block->returned == m.block->fibers.size()) wrong = "sent to a block that has returned";
    if (m.mbarrier->phase != m.phase) wrong = "arrived in another phase of its mbarrier than it was sent in";
    if (wrong) failure = std::string(wrong) + ": " + m.where + ", " + name_of(m.from);
    if (wrong) return;
    for (int k = 0; k < 4; ++k) reinterpret_cast<unsigned*>(m.to)[k] = m.words[k];
    m.mbarrier->bytes -= 16;
    settle(*m.mbarrier);
}

// Whether there was something to deliver; where threads only wait, until one has something new to see.
bool Run::deliver_some() {
    if (!messages) return false;
    if (launch->schedule == IN_ORDER) {
        while (messages && failure.empty()) deliver(0);
    } else if (ready.empty()) {
        for (const unsigned long long before = progress; messages && failure.empty() && progress == before;)
            deliver(draw() % messages);
    } else if (launch->schedule >= RANDOM && draw() % 4 == 0) {
        deliver(draw() % messages);
    }
    return true;
}

void Run::fibers_until_done() {
    unsigned long long progress_before = ~0ull;
    while (failure.empty()) {
        const bool delivered = deliver_some();
        if (!failure.empty()) return;
        if (ready.empty()) {
            if (delivered && spinning.empty() && messages) continue;
            // Nobody got on since each of them last looked: none ever will.
            if (spinning.empty() || progress == progress_before) return;
            progress_before = progress;
            while (!spinning.empty()) wake_spinning(spinning.size() - 1);
        } else if (launch->schedule >= RANDOM && !spinning.empty() && draw() % 64 == 0) {
            wake_spinning(draw() % spinning.size());
        }
        enter(take());
    }
}

std::string missing(const Mbarrier* m) {
    if (!m) return "";
    return " for phase " + std::to_string(m->phase) + ", where " + std::to_string(m->pending) + " of " +
           std::to_string(m->arrivals) + " arrivals and " + std::to_string(m->bytes) + " bytes are missing";
}

std::string deadlock(const std::vector<Fiber>& fibers) {
    std::string list;
    unsigned stuck = 0;
    for (const Fiber& f : fibers)
        if (!f.returned && ++stuck <= 8) list += "\n  " + name_of(&f) + " waits in " + (f.where ? f.where : "its start") + missing(f.looked_at);
    if (!stuck) return "";
    return "deadlock: " + std::to_string(stuck) + " of " + std::to_string(fibers.size()) + " threads wait" + list +
           (stuck > 8 ? "\n  and others" : "");
}

}  // namespace

// ---- what a thread calls ----

extern "C" void emulated_failure(const char* what, const char* where) {
    run->failure = std::string(what) + ": " + where + ", " + name_of(self());
    leave();
    abort();
}

// All threads of a block, or of a cluster, meet.
template <class Group> static void meet(Group& g, const char* where) {
    if (g.returned) emulated_failure("barrier after a thread has returned", where);
    if (g.waiting && !same(g.where, where))
        emulated_failure((std::string("divergent barriers, others wait in ") + g.where).c_str(), where);
    long* order = &g.order[g.barriers & 1];
    released(order);
    g.where = self()->where = where;
    if (++g.waiting == g.fibers.size()) {
        g.waiting = 0;
        ++g.barriers;
        ++run->progress;
        for (Fiber* f : g.fibers) run->wake(f);
    }
    leave();
    acquired(order);
}

extern "C" void emulated_barrier(const char* where) { meet(*self()->home, where); }

extern "C" void emulated_cluster_barrier(const char* where) { meet(*self()->home->cluster, where); }

// The offset in shared memory of so many bytes there.
static size_t shared_offset(const void* p, size_t bytes, const char* where) {
    const size_t offset = size_t(static_cast<const unsigned char*>(p) - self()->home->shared);
    if (offset >= run->launch->shared_bytes || offset + bytes > run->launch->shared_bytes)
        emulated_failure("beyond the block's shared memory", where);
    if (offset % bytes) emulated_failure("misaligned address", where);
    return offset;
}

// What lies where an mbarrier does, whose own state is the block's: two NaN of float, so that it is found if it is read,
// and missed if it is written over.
static const unsigned MBARRIER_WORDS[2] = {0x7fc0626du, 0x7fc07262u};

static Mbarrier& mbarrier_of(Block& block, const void* mine, const char* where) {
    unsigned char* at = block.shared + shared_offset(mine, 8, where);
    const auto found = block.mbarriers.find(at);
    if (found == block.mbarriers.end()) emulated_failure("no mbarrier was made there", where);
    if (std::memcmp(at, MBARRIER_WORDS, 8)) emulated_failure("an mbarrier was written over", where);
    if (__tsan_read_range) __tsan_read_range(at, 8);
    return found->second;
}

extern "C" void emulated_mbarrier_init(void* mbarrier, unsigned arrivals, const char* where) {
    Block& block = *self()->home;
    shared_offset(mbarrier, 8, where);
    if (block.mbarriers.count(mbarrier)) emulated_failure("an mbarrier is made twice", where);
    if (__tsan_write_range) __tsan_write_range(mbarrier, 8);
    std::memcpy(mbarrier, MBARRIER_WORDS, 8);
    Mbarrier& m = block.mbarriers[mbarrier];
    m.arrivals = m.pending = arrivals;
}

extern "C" void emulated_mbarrier_expect(void* mbarrier, unsigned bytes, const char* where) {
    Mbarrier& m = mbarrier_of(*self()->home, mbarrier, where);
    released(&m.order[m.phase & 1]);
    --m.pending;
    m.bytes += bytes;
    if (m.bytes > MOST_TRANSACTION_BYTES) emulated_failure("more bytes than an mbarrier counts", where);
    run->settle(m);
}

extern "C" bool emulated_mbarrier_passed(void* mbarrier, unsigned parity, const char* where) {
    Mbarrier& m = mbarrier_of(*self()->home, mbarrier, where);
    const bool passed = (m.phase & 1) != parity;
    self()->looked_at = passed ? nullptr : &m;
    if (passed) acquired(&m.order[parity]);
    return passed;
}

// For ThreadSanitizer the sender writes at once, and the phase in which it does releases that: so a reader must have
// waited for this phase, and readers of what was there before must have come first.
extern "C" void emulated_send(void* mine, const unsigned (&words)[4], void* mbarrier, unsigned rank, const char* where) {
    const std::vector<Block*>& blocks = self()->home->cluster->blocks;
    if (rank >= blocks.size()) emulated_failure("no block of the cluster has that rank", where);
    Block& block = *blocks[rank];
    unsigned char* to = block.shared + shared_offset(mine, 16, where);
    Mbarrier& m = mbarrier_of(block, mbarrier, where);
    if (__tsan_write_range) __tsan_write_range(to, 16);
    released(&m.order[m.phase & 1]);
    if (run->messages == MOST_MESSAGES) emulated_failure("too many messages on their way", where);
    run->under_way[run->messages++] = {to, &block, &m, m.phase, {words[0], words[1], words[2], words[3]}, self(), where};
}

extern "C" bool emulated_spin(bool again, const char* where) {
    if (!again) {
        ++run->progress;
        return false;
    }
    self()->where = where;
    run->spinning.push_back(self());
    leave();
    return true;
}

extern "C" void emulated_exchange(const unsigned* mine, unsigned* all, unsigned words, unsigned mask,
                                  bool orders_memory, const char* where) {
    Fiber* f = self();
    const unsigned first = f->index - f->lane, own = 1u << f->lane;
    const size_t lanes = std::min<size_t>(LANES, f->home->fibers.size() - first);
    if (!(mask & own)) emulated_failure("lane outside its own mask", where);
    if (lanes < LANES && mask >> lanes) emulated_failure("mask names lanes that the block does not have", where);
    if (words > MOST_WORDS) emulated_failure("too many words", where);

    std::deque<Collective>& warp = f->home->warps[f->index / LANES];
    Collective *open = nullptr, *unused = nullptr;
    for (Collective& c : warp) {
        if (c.unread) continue;
        if (!c.arrived) unused = &c;
        else if (c.mask == mask && same(c.where, where)) open = &c;
        else if (c.mask & mask)
            emulated_failure((std::string("divergent warp, other lanes wait in ") + c.where).c_str(), where);
    }
    if (!open) {
        open = unused ? unused : &warp.emplace_back();
        open->mask = mask, open->where = where;
    }
    for (unsigned i = 0; i < words; ++i) open->values[f->lane][i] = mine[i];
    if (orders_memory) released(&open->order);
    f->where = where;
    open->arrived |= own;
    if (open->arrived == mask) {
        open->arrived = 0, open->unread = mask;
        ++run->progress;
        for (unsigned lane = 0; lane < lanes; ++lane)
            if (mask >> lane & 1) run->wake(f->home->fibers[first + lane]);
    }
    leave();
    if (orders_memory) acquired(&open->order);
    for (unsigned lane = 0; lane < LANES && words; ++lane)
        for (unsigned i = 0; i < words; ++i) all[lane * words + i] = mask >> lane & 1 ? open->values[lane][i] : 0;
    open->unread &= ~own;
}

// ---- launching ----

namespace {

std::string launch_error(const EmulatedLaunch* l, unsigned most_threads, unsigned cluster,
                         unsigned long long arguments_bytes) {
    const unsigned threads = l->block[0] * l->block[1] * l->block[2];
    if (threads == 0 || l->grid[0] * l->grid[1] * l->grid[2] == 0) return "an empty grid or block";
    if (l->grid[0] % cluster)
        return "a grid of " + std::to_string(l->grid[0]) + " blocks, no multiple of clusters of " + std::to_string(cluster);
    if (threads > most_threads)
        return "a block of " + std::to_string(threads) + " threads, over the kernel's " + std::to_string(most_threads);
    if (l->arguments_bytes != arguments_bytes)
        return "arguments of " + std::to_string(l->arguments_bytes) + " bytes, where the kernel's structure has " +
               std::to_string(arguments_bytes);
    return "";
}

std::string launched(const EmulatedLaunch* l, unsigned cluster, void (*thread)(const void*)) {
    const dim3 grid{l->grid[0], l->grid[1], l->grid[2]}, size{l->block[0], l->block[1], l->block[2]};
    const unsigned blocks = grid.x * grid.y * grid.z, threads = size.x * size.y * size.z;
    std::vector<Block> resident(blocks);
    std::vector<Cluster> clusters(blocks / cluster);
    std::vector<Fiber> fibers(size_t(blocks) * threads);
    std::vector<unsigned char*> shared(blocks);
    char* stacks = stacks_for(fibers.size());
    if (!stacks || !messages_of_launches()) return "no address space for the threads' stacks and messages";

    Run state;
    state.launch = l, state.thread = thread, state.under_way = messages_of_launches();
    run = &state;
    state.random = (l->seed + 1) * 0x9e3779b97f4a7c15ull | 1;
    state.blocks = blocks, state.favourite = unsigned(state.draw() % blocks);
    state.tsan = __tsan_get_current_fiber ? __tsan_get_current_fiber() : nullptr;
    state.ready.reserve(fibers.size()), state.spinning.reserve(fibers.size());  // never grow inside a fiber
    for (unsigned b = 0; b < blocks; ++b) {
        // Of the very size asked for, so that AddressSanitizer sees what goes beyond; all bits set: NaN.
        if (posix_memalign(reinterpret_cast<void**>(&shared[b]), 128, std::max(l->shared_bytes, 1u))) abort();
        memset(shared[b], 0xff, l->shared_bytes);
        resident[b].warps.resize((threads + LANES - 1) / LANES);
        resident[b].cluster = &clusters[b / cluster];
        resident[b].shared = shared[b];
        clusters[b / cluster].blocks.push_back(&resident[b]);
        for (unsigned t = 0; t < threads; ++t) {
            Fiber& f = fibers[size_t(b) * threads + t];
            f.thread = {t % size.x, t / size.x % size.y, t / size.x / size.y};
            f.block = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
            f.block_size = size, f.grid_size = grid, f.shared_memory = shared[b], f.lane = t % LANES;
            f.home = &resident[b], f.index = t, f.block_index = b;
            prepare(&f, stacks + STACK_BYTES * (size_t(b) * threads + t));
            resident[b].fibers.push_back(&f);
            clusters[b / cluster].fibers.push_back(&f);
        }
    }
    // Making one takes ThreadSanitizer long, so they serve many launches, of which each comes after those before.
    released(&state.launched);
    static std::vector<void*> watched;
    for (Fiber& f : fibers) {
        if (state.tsan) {
            const size_t i = size_t(&f - fibers.data());
            if (i == watched.size()) watched.push_back(__tsan_create_fiber(0));
            f.tsan = watched[i];
        }
        state.wake(&f);
    }
    state.fibers_until_done();
    acquired(&state.all_returned);
    if (state.failure.empty()) state.failure = deadlock(fibers);
    if (!state.failure.empty()) {  // who has not returned has calls on record that will never end
        for (void* fiber : watched) __tsan_destroy_fiber(fiber);
        watched.clear();
    }
    for (unsigned char* memory : shared) free(memory);
    run = nullptr, emulated_thread = nullptr;
    return state.failure;
}

}  // namespace

extern "C" int emulated_launch(const EmulatedLaunch* l, const char* name, void (*thread)(const void*),
                               unsigned most_threads, unsigned cluster, unsigned long long arguments_bytes) {
    std::string error = launch_error(l, most_threads, cluster, arguments_bytes);
    if (error.empty()) error = launched(l, cluster, thread);
    if (error.empty()) return 0;
    snprintf(l->message, l->message_bytes, "%s: %s", name, error.c_str());
    return 1;
}
