#include "cuda/stand_in.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <unordered_map>
#include <vector>

#include "cuda/device.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace kitae::cuda::stand_in {

__thread const Position* position = nullptr;

namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr int64_t kStaticShared = 48 * 1024;
constexpr int64_t kMostShared = 227 * 1024;
constexpr int kGap = 16;  // between shared arrays, forbidden under AddressSanitizer
constexpr int kPoison = 0xA5;
constexpr int kIdleRounds = 10000;  // rounds in which threads only spin, before that is a deadlock

// Stacks lie whole pages apart: were all used from their tops, the same few sets of the caches would hold them all.
size_t unused(const char* stack) { return reinterpret_cast<uintptr_t>(stack) / kStackBytes % 512 * 192; }

// A stack of its own and where it stopped. Switching by hand: swapcontext asks the kernel for the signal mask each
// time.
#if defined(__x86_64__)

asm(R"(
.text
.type kitae_switch_stack, @function
kitae_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size kitae_switch_stack, .-kitae_switch_stack
)");
extern "C" void kitae_switch_stack(void** from, void* to) __asm__("kitae_switch_stack");

class Context {
 public:
  void start(char* stack, void (*entry)()) {
    auto** top = reinterpret_cast<void**>(stack + kStackBytes - unused(stack));
    *--top = nullptr;  // the entry's caller: it has none
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    stack_ = top;
  }
  void switch_to(Context& other) { kitae_switch_stack(&stack_, other.stack_); }

 private:
  void* stack_ = nullptr;
};

#else

class Context {
 public:
  void start(char* stack, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = kStackBytes - unused(stack);
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  void switch_to(Context& other) { swapcontext(&context_, &other.context_); }

 private:
  ucontext_t context_{};
};

#endif

struct Block;

enum class State { ready, spinning, warp, block, cluster, done };

struct Copy {
  void* to;
  const void* from;
};

struct Fiber {
  Position at;
  Block* block = nullptr;
  State state = State::ready;
  Context context;
  char* stack = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  Site site{nullptr, 0};
  Warp kind = Warp::ballot;
  uint32_t mask = 0;
  uint64_t value = 0, result = 0;
  int source = 0;
  bool arrived_at_cluster = false;
  uint64_t cluster_phase = 0;
  std::vector<Copy> copies;

  int lane() const { return at.thread % kWarp; }
};

struct Cluster {
  std::vector<Block*> blocks;
  int threads = 0, arrived = 0;
  uint64_t phase = 0;
};

// A warp's lanes, a bit each: in the block at all, waiting in a warp function or in sync_block, out of the kernel.
struct Lanes {
  uint32_t there = 0, waiting = 0, blocked = 0, done = 0;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Lanes> lanes;
  std::vector<char> arena;  // static arrays, then the dynamic one
  Cluster* cluster = nullptr;
  int waiting = 0, done = 0, count = 0, result = 0;
  Site site{nullptr, 0};
};

// Freed stacks, for the next launch of this host thread.
class Stacks {
 public:
  ~Stacks() {
    for (char* stack : free_) munmap(stack, kStackBytes);
  }
  char* take() {
    if (free_.empty()) {
      void* memory =
          mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory == MAP_FAILED) throw std::bad_alloc();
      free_.push_back(static_cast<char*>(memory));
    }
    char* stack = free_.back();
    free_.pop_back();
    ASAN_UNPOISON_MEMORY_REGION(stack, kStackBytes);
    return stack;
  }
  void give_back(char* stack) { free_.push_back(stack); }

 private:
  std::vector<char*> free_;
};

thread_local Stacks stacks;
thread_local uint64_t launches = 0;

uint64_t& seed() {
  static uint64_t value = [] {
    const char* text = std::getenv("KITAE_SIMULATED_SEED");
    return text ? std::strtoull(text, nullptr, 10) : 0ull;
  }();
  return value;
}

class Simulation;
thread_local Simulation* simulation = nullptr;

class Simulation {
 public:
  Simulation(const Config& config, const char* name, void (*body)(const void*), const void* kernel)
      : config_(config), name_(name), body_(body), kernel_(kernel), random_(seed() * 1000003u + launches++) {}

  ~Simulation() { simulation = outer_; }

  void run() {
    outer_ = simulation;
    simulation = this;
    require(config_.blocks <= 0x7fffffff, "too many blocks");
    require(config_.threads >= 1 && config_.threads <= 1024, "a block has 1 to 1024 threads");
    require(config_.cluster >= 1 && config_.cluster <= 16, "a cluster has 1 to 16 blocks");
    require(config_.blocks % config_.cluster == 0, "the cluster's size does not divide the number of blocks");
    require(config_.shared_bytes <= kMostShared, "more than 227 KB of shared memory");
    if (config_.cooperative)
      require(config_.blocks <= config_.max_resident, "more blocks than the device holds at once");

    const int64_t size = config_.cooperative ? config_.blocks : config_.cluster;
    std::vector<int64_t> groups(static_cast<size_t>(config_.blocks / size));
    for (size_t i = 0; i < groups.size(); ++i) groups[i] = static_cast<int64_t>(i);
    std::shuffle(groups.begin(), groups.end(), random_);
    for (size_t next = 0; next < groups.size();) {
      blocks_.clear();
      clusters_.clear();
      const size_t together = 1 + random_() % 3;
      for (size_t i = 0; i < together && next < groups.size(); ++i, ++next) add(groups[next] * size, size);
      run_blocks();
    }
  }

  // The rest is called by the running fiber.

  void* shared(const void* site, size_t bytes) {
    auto [entry, fresh] = offsets_.try_emplace(site, Offset{used_, static_cast<int64_t>(bytes)});
    if (fresh) {
      used_ += (static_cast<int64_t>(bytes) + 15) / 16 * 16 + kGap;
      if (used_ > kStaticShared) fail("more than 48 KB of static shared memory");
    }
    char* array = current_->block->arena.data() + entry->second.begin;
    ASAN_UNPOISON_MEMORY_REGION(array, bytes);
    return array;
  }

  void* dynamic_shared() { return current_->block->arena.data() + kStaticShared; }

  void* map(void* address, int rank) {
    const std::vector<char>& own = current_->block->arena;
    const auto offset = static_cast<char*>(address) - own.data();
    if (offset < 0 || offset >= static_cast<int64_t>(own.size())) fail("cluster_map: not this block's shared memory");
    if (rank < 0 || rank >= config_.cluster) fail("cluster_map: no block of this rank in the cluster");
    Block& other = *current_->block->cluster->blocks[static_cast<size_t>(rank)];
    char* mapped = other.arena.data() + offset;
    if (other.done < config_.threads) {
      for (const auto& [site, place] : offsets_)  // the other block may not have come to the declaration yet
        if (offset >= place.begin && offset < place.begin + place.bytes)
          ASAN_UNPOISON_MEMORY_REGION(other.arena.data() + place.begin, static_cast<size_t>(place.bytes));
    } else {
      fail("cluster_map: that block has ended");
    }
    return mapped;
  }

  uint64_t warp(Warp kind, uint32_t mask, uint64_t value, int source, Site site) {
    Fiber& self = *current_;
    const int first = self.at.thread - self.lane();
    if (!(mask >> self.lane() & 1u)) fail("a warp function whose mask leaves out the lane that calls it", site);
    if (kind == Warp::shuffle && !(mask >> source & 1u)) fail("a shuffle from a lane that is not in its mask", site);
    self.kind = kind;
    self.mask = mask;
    self.value = value;
    self.source = source;
    self.site = site;
    self.state = State::warp;
    Lanes& lanes = lanes_of(self);
    if (mask & ~lanes.there) fail("a warp function names a lane that the block does not have", site);
    if (mask & lanes.done) fail("a warp function names a lane that has left the kernel", site);
    if (const uint32_t blocked = mask & lanes.blocked)
      fail("a warp function names a lane that waits in sync_block", site, fiber(first + __builtin_ctz(blocked)).site);
    // The last one to come compares itself with all, the others with one.
    bool complete = (mask & ~(lanes.waiting | 1u << self.lane())) == 0;
    const bool last = complete;
    for (uint32_t left = mask & lanes.waiting; left; left = last ? left & (left - 1) : 0) {
      const Fiber& other = fiber(first + __builtin_ctz(left));
      const bool same = other.mask == mask && other.kind == kind && other.site == site;
      if (!same && (other.mask >> self.lane() & 1u))
        fail("a lane that a warp function names stands in another warp function", site, other.site);
      complete = complete && same;
    }
    lanes.waiting |= 1u << self.lane();
    if (!complete) {
      leave();
      return self.result;
    }
    uint64_t votes = 0;
    for (int lane = 0; lane < kWarp; ++lane)
      if (mask >> lane & 1u && fiber(first + lane).value) votes |= uint64_t{1} << lane;
    for (int lane = 0; lane < kWarp; ++lane) {
      if (!(mask >> lane & 1u)) continue;
      Fiber& other = fiber(first + lane);
      other.result = kind == Warp::ballot ? votes : fiber(first + other.source).value;
      other.state = State::ready;
    }
    lanes.waiting &= ~mask;
    return self.result;
  }

  int block(bool value, Site site) {
    Block& block = *current_->block;
    if (block.done > 0) fail("sync_block, but a thread of the block has left the kernel", site);
    if (block.waiting == 0)
      block.site = site;
    else if (!(block.site == site))
      fail("sync_block by a part of the threads", site, block.site);
    current_->site = site;
    block.count += value ? 1 : 0;
    if (++block.waiting < config_.threads) {
      current_->state = State::block;
      lanes_of(*current_).blocked |= 1u << current_->lane();
      leave();
      return block.result;
    }
    block.result = block.count;
    block.waiting = block.count = 0;
    for (Fiber& fiber : block.fibers)
      if (fiber.state == State::block) fiber.state = State::ready;
    for (Lanes& lanes : block.lanes) lanes.blocked = 0;
    return block.result;
  }

  void cluster_arrive() {
    Cluster& cluster = *current_->block->cluster;
    if (current_->arrived_at_cluster) fail("cluster_arrive twice without cluster_wait");
    current_->arrived_at_cluster = true;
    current_->cluster_phase = cluster.phase;
    if (++cluster.arrived < cluster.threads) return;
    cluster.arrived = 0;
    ++cluster.phase;
    for (Block* block : cluster.blocks)
      for (Fiber& fiber : block->fibers)
        if (fiber.state == State::cluster) fiber.state = State::ready;
  }

  void cluster_wait() {
    if (!current_->arrived_at_cluster) fail("cluster_wait without cluster_arrive");
    current_->arrived_at_cluster = false;
    if (current_->block->cluster->phase != current_->cluster_phase) return;
    current_->state = State::cluster;
    leave();
  }

  void yield() {
    current_->state = State::spinning;
    leave();
  }

  void async_copy(void* to, const void* from) { current_->copies.push_back({to, from}); }
  void async_copy_wait() {
    for (const Copy& copy : current_->copies) std::memcpy(copy.to, copy.from, 16);
    current_->copies.clear();
  }

  // Nothing here owns memory: the fiber never returns to free it.
  [[noreturn]] void fail(const char* what, Site site = {nullptr, 0}, Site other = {nullptr, 0}) {
    failure_ = {what, site, other};
    leave();
    std::abort();
  }

 private:
  struct Offset {
    int64_t begin, bytes;
  };
  struct Failure {
    const char* what;  // nullptr: none
    Site site, other;
  };

  static std::string text(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

  void require(bool holds, const char* what) const {
    if (!holds) throw SimulationError(std::string(what) + ", in " + name_);
  }

  static Lanes& lanes_of(const Fiber& fiber) {
    return fiber.block->lanes[static_cast<size_t>(fiber.at.thread / kWarp)];
  }
  Fiber& fiber(int thread) { return current_->block->fibers[static_cast<size_t>(thread)]; }

  void add(int64_t first, int64_t count) {
    for (int64_t number = first; number < first + count; ++number) {
      auto block = std::make_unique<Block>();
      block->arena.assign(static_cast<size_t>(kStaticShared + config_.shared_bytes), static_cast<char>(kPoison));
      ASAN_POISON_MEMORY_REGION(block->arena.data(), kStaticShared);
      block->fibers.resize(static_cast<size_t>(config_.threads));
      block->lanes.resize(static_cast<size_t>((config_.threads + kWarp - 1) / kWarp));
      const int rank = static_cast<int>(number % config_.cluster);
      if (rank == 0) clusters_.push_back(std::make_unique<Cluster>());
      Cluster& cluster = *clusters_.back();
      cluster.blocks.push_back(block.get());
      cluster.threads += config_.threads;
      block->cluster = &cluster;
      for (int thread = 0; thread < config_.threads; ++thread) {
        Fiber& fiber = block->fibers[static_cast<size_t>(thread)];
        fiber.at = {thread, config_.threads, static_cast<int>(number), static_cast<int>(config_.blocks),
                    rank,   config_.cluster};
        fiber.block = block.get();
        lanes_of(fiber).there |= 1u << fiber.lane();
      }
      blocks_.push_back(std::move(block));
    }
  }

  void run_blocks() {
    struct WarpOf {
      Block* block;
      int first, last;
    };
    std::vector<WarpOf> warps;
    int64_t left = 0;
    for (const auto& block : blocks_)
      for (int first = 0; first < config_.threads; first += kWarp) {
        const int last = std::min(first + kWarp, config_.threads);
        warps.push_back({block.get(), first, last});
        left += last - first;
      }
    int idle = 0;
    while (left > 0) {
      std::shuffle(warps.begin(), warps.end(), random_);
      bool progress = false, spun = false;
      for (const WarpOf& warp : warps) {
        const int count = warp.last - warp.first;
        const uint64_t order = random_();
        const int start = static_cast<int>(order >> 8) & (kWarp - 1);
        for (int i = 0; i < count; ++i) {
          const int turned = (i + start) % count;
          Fiber& fiber =
              warp.block->fibers[static_cast<size_t>(warp.first + (order & 1 ? turned : count - 1 - turned))];
          if (fiber.state != State::ready && fiber.state != State::spinning) continue;
          const bool before_spinning = fiber.state == State::spinning;
          resume(fiber);
          if (failure_.what) {
            std::string message = failure_.what;
            if (failure_.site.file) message += ", at " + text(failure_.site);
            if (failure_.other.file) message += " (the other at " + text(failure_.other) + ")";
            stop(message + ", block " + std::to_string(fiber.at.block) + ", thread " + std::to_string(fiber.at.thread));
          }
          left -= fiber.state == State::done ? 1 : 0;
          spun = spun || fiber.state == State::spinning;
          progress = progress || !(before_spinning && fiber.state == State::spinning);
        }
      }
      idle = progress ? 0 : idle + 1;
      if (left > 0 && !progress && (!spun || idle > kIdleRounds)) deadlock();
    }
  }

  void resume(Fiber& fiber) {
    if (!fiber.stack) {
      fiber.stack = stacks.take();
      fiber.context.start(fiber.stack, [] { simulation->enter(); });
    }
    fiber.state = State::ready;
    current_ = &fiber;
    position = &fiber.at;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, fiber.stack, kStackBytes);
    scheduler_.switch_to(fiber.context);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    scheduler_.switch_to(fiber.context);
#endif
    position = nullptr;
    if (fiber.state == State::done) {
      stacks.give_back(fiber.stack);
      fiber.stack = nullptr;
    }
  }

  void enter() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
    body_(kernel_);
    async_copy_wait();
    Fiber& self = *current_;
    Block& block = *self.block;
    if (block.waiting > 0) fail("a thread leaves the kernel while others wait in sync_block", block.site);
    self.state = State::done;
    lanes_of(self).done |= 1u << self.lane();
    if (++block.done == config_.threads) {
      std::fill(block.arena.begin() + kStaticShared, block.arena.end(), static_cast<char>(kPoison));
      ASAN_POISON_MEMORY_REGION(block.arena.data(), block.arena.size());
    }
    leave();
    std::abort();  // a finished fiber never runs again
  }

  // From the running fiber to the scheduler.
  void leave() {
    Fiber& self = *current_;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(self.state == State::done ? nullptr : &self.fake_stack, scheduler_stack_,
                                   scheduler_stack_bytes_);
    self.context.switch_to(scheduler_);
    __sanitizer_finish_switch_fiber(self.fake_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#else
    self.context.switch_to(scheduler_);
#endif
  }

  [[noreturn]] void stop(const std::string& message) {
    for (const auto& block : blocks_)
      for (Fiber& fiber : block->fibers)
        if (fiber.stack) stacks.give_back(fiber.stack);
    throw SimulationError(message + ", in " + name_);
  }

  [[noreturn]] void deadlock() {
    std::string message = "deadlock";
    int told = 0;
    for (const auto& block : blocks_)
      for (const Fiber& fiber : block->fibers) {
        if (fiber.state == State::done || told++ >= 4) continue;
        message += ": block " + std::to_string(fiber.at.block) + ", thread " + std::to_string(fiber.at.thread);
        message += fiber.state == State::warp      ? " waits in a warp function at " + text(fiber.site)
                   : fiber.state == State::block   ? " waits in sync_block at " + text(fiber.site)
                   : fiber.state == State::cluster ? std::string(" waits in cluster_wait")
                                                   : std::string(" spins");
      }
    stop(message);
  }

  const Config config_;
  const std::string name_;
  void (*body_)(const void*);
  const void* kernel_;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<std::unique_ptr<Cluster>> clusters_;
  std::unordered_map<const void*, Offset> offsets_;  // of static shared arrays, the same in every block
  int64_t used_ = 0;
  Context scheduler_;
  Fiber* current_ = nullptr;
  Simulation* outer_ = nullptr;
  Failure failure_{};
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
};

}  // namespace

void set_seed(uint64_t value) {
  seed() = value;
  launches = 0;
}

void launch(const Config& config, const char* name, void (*body)(const void*), const void* kernel) {
  if (config.blocks == 0) return;
  Simulation(config, name, body, kernel).run();
}

void* shared(const void* site, size_t bytes) { return simulation->shared(site, bytes); }
void* dynamic_shared() { return simulation->dynamic_shared(); }
void* map(void* address, int rank) { return simulation->map(address, rank); }
uint64_t warp(Warp kind, uint32_t mask, uint64_t value, int source, Site site) {
  return simulation->warp(kind, mask, value, source, site);
}
int block(bool value, Site site) { return simulation->block(value, site); }
void cluster_arrive() { simulation->cluster_arrive(); }
void cluster_wait() { simulation->cluster_wait(); }
void yield() { simulation->yield(); }
void require_aligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
    simulation->fail("a vector at an address that is no multiple of its size");
}
void async_copy(void* to, const void* from) {
  require_aligned(to, 16);
  require_aligned(from, 16);
  simulation->async_copy(to, from);
}
void async_copy_wait() { simulation->async_copy_wait(); }

}  // namespace kitae::cuda::stand_in
