// Writes what a program's GPU did: a line for each kernel, copy and memset, through CUPTI's activities. A library that
// the driver loads into any CUDA program that is started with CUDA_INJECTION64_PATH; tests/bench/timeline.py builds,
// starts and reads it.
//   g++ -shared -fPIC -O2 -I$CUDA/include -o kernel_trace.so kernel_trace.cpp -L$CUDA/lib64 -lcupti
//   CUDA_INJECTION64_PATH=$PWD/kernel_trace.so KERNEL_TRACE=trace sinkscope ...     writes trace.RANK.PROCESS.tsv
// Columns: start and end in nanoseconds, stream, blocks, threads of a block, name.
#include <cupti.h>
#include <cxxabi.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

std::FILE* file = nullptr;

void check(CUptiResult status, const char* call) {
  if (status == CUPTI_SUCCESS) return;
  const char* text = nullptr;
  cuptiGetResultString(status, &text);
  std::fprintf(stderr, "kernel_trace: %s: %s\n", call, text == nullptr ? "?" : text);
  std::exit(1);
}

std::string readable(const char* name) {
  int status = 0;
  char* text = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  const std::string result = status == 0 ? text : name;
  std::free(text);
  return result;
}

void CUPTIAPI give(std::uint8_t** buffer, std::size_t* size, std::size_t* records) {
  *size = std::size_t{4} << 20;
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(64, *size));
  *records = 0;
}

void CUPTIAPI take(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t, std::size_t valid) {
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    const auto line = [](std::uint64_t start, std::uint64_t end, std::uint32_t stream, long blocks, long threads,
                         const char* name) {
      std::fprintf(file, "%llu\t%llu\t%u\t%ld\t%ld\t%s\n", static_cast<unsigned long long>(start),
                   static_cast<unsigned long long>(end), stream, blocks, threads, name);
    };
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      line(kernel->start, kernel->end, kernel->streamId,
           static_cast<long>(kernel->gridX) * kernel->gridY * kernel->gridZ,
           static_cast<long>(kernel->blockX) * kernel->blockY * kernel->blockZ, readable(kernel->name).c_str());
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto* copy = reinterpret_cast<const CUpti_ActivityMemcpy6*>(record);
      line(copy->start, copy->end, copy->streamId, 0, 0, "copy");
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      const auto* set = reinterpret_cast<const CUpti_ActivityMemset4*>(record);
      line(set->start, set->end, set->streamId, 0, 0, "memset");
    }
  }
  std::free(buffer);
}

void finish() {
  cuptiActivityFlushAll(1);
  std::fclose(file);
}

}  // namespace

extern "C" int InitializeInjection() {
  const char* path = std::getenv("KERNEL_TRACE");
  const char* rank = std::getenv("RANK");
  const std::string name = std::string(path == nullptr ? "trace" : path) + "." + (rank == nullptr ? "0" : rank) + "." +
                           std::to_string(getpid()) + ".tsv";
  file = std::fopen(name.c_str(), "w");
  if (file == nullptr) {
    std::fprintf(stderr, "kernel_trace: %s: cannot be written\n", name.c_str());
    std::exit(1);
  }
  check(cuptiActivityRegisterCallbacks(give, take), "cuptiActivityRegisterCallbacks");
  for (const CUpti_ActivityKind kind :
       {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET})
    check(cuptiActivityEnable(kind), "cuptiActivityEnable");
  std::atexit(finish);
  return 1;
}
