// Matrix products through cuBLASLt: a plan for every shape, made once. Of large ones several algorithms are timed on
// the arrays of the first call, unless a record of earlier runs has one (CudaOptions::choose). One with an activation
// in its epilogue may be our own kernel's (sm90/activated_product.cu).
#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/plan.h"
#include "kernels/cuda/sm90/activated_product.h"

namespace sinkscope {
namespace {

using Algorithm = cublasLtMatmulAlgo_t;  // plain data, good for one version of the library
static_assert(std::is_trivially_copyable_v<Algorithm>);

constexpr int kCandidates = 16;
// Of a candidate: calls in a first look, then rounds in turns of those that looked best.
constexpr int kFirstCalls = 3, kBest = 4, kRounds = 5, kCalls = 4;
// In place of an algorithm: the product without its epilogue, and the rest by operations of their own; or our own
// kernel, whose version is part of the names of products that it can do, so that a new one is timed anew.
constexpr const char* kApart = "apart";
constexpr const char* kOwnKernel = "own-kernel";
constexpr const char* kOwnVersion = "2";

cudaDataType_t data_type(DType dtype) { return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

const char* name_of(ProductOperands operands) { return operands == ProductOperands::e4m3 ? "e4m3" : "e4m3*e5m2"; }

/// The largest power of two, at most 256, that divides every address.
std::uint32_t common_alignment(std::initializer_list<const void*> pointers) {
  std::uintptr_t bits = 256;
  for (const void* pointer : pointers) bits |= reinterpret_cast<std::uintptr_t>(pointer);
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

template <class T>
void set_attribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t name, const T& value) {
  check_blas(cublasLtMatmulDescSetAttribute(operation, name, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}
template <class T>
void set_preference(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t name, const T& value) {
  check_blas(cublasLtMatmulPreferenceSetAttribute(preference, name, &value, sizeof value),
             "cublasLtMatmulPreferenceSetAttribute");
}

cublasLtEpilogue_t epilogue_of(ProductEpilogue epilogue, bool bias) {
  switch (epilogue) {
    case ProductEpilogue::gelu: return bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    case ProductEpilogue::gelu_gradient: return CUBLASLT_EPILOGUE_DGELU;
    case ProductEpilogue::none:
    case ProductEpilogue::swiglu:
    case ProductEpilogue::swiglu_gradient: break;
  }
  return bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

bool in_library(ProductEpilogue epilogue) {
  return epilogue != ProductEpilogue::swiglu && epilogue != ProductEpilogue::swiglu_gradient;
}

const char* name_of(ProductEpilogue epilogue) {
  switch (epilogue) {
    case ProductEpilogue::gelu: return " gelu";
    case ProductEpilogue::gelu_gradient: return " gelu'";
    case ProductEpilogue::swiglu: return " swiglu";
    case ProductEpilogue::swiglu_gradient: return " swiglu'";
    case ProductEpilogue::none: break;
  }
  return "";
}

std::string to_word(const Algorithm& algorithm) {
  std::array<unsigned char, sizeof algorithm> bytes;
  std::memcpy(bytes.data(), &algorithm, sizeof algorithm);
  std::string word;
  for (const unsigned char byte : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    word += kDigits[byte / 16];
    word += kDigits[byte % 16];
  }
  return word;
}

/// False: not the word of an algorithm.
bool from_word(const std::string& word, Algorithm& algorithm) {
  std::array<unsigned char, sizeof algorithm> bytes;
  if (word.size() != 2 * bytes.size()) return false;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const char* digits = word.data() + 2 * i;
    if (std::from_chars(digits, digits + 2, bytes[i], 16).ptr != digits + 2) return false;
  }
  std::memcpy(&algorithm, bytes.data(), sizeof algorithm);
  return true;
}

}  // namespace

CudaOps::Plan::~Plan() {
  if (a != nullptr) cublasLtMatrixLayoutDestroy(a);
  if (b != nullptr) cublasLtMatrixLayoutDestroy(b);
  if (d != nullptr) cublasLtMatrixLayoutDestroy(d);
  if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
}

std::string CudaOps::product_name(const Product& p) const {
  std::string text = properties_.name + std::string(", cuBLASLt ") + std::to_string(cublasLtGetVersion()) + ": " +
                     (p.operands == ProductOperands::real ? name_of(real_) : name_of(p.operands));
  for (const std::int64_t extent : {p.m, p.n, p.k}) text += " " + std::to_string(extent);
  text += p.transpose_a ? " t" : " n";
  text += p.transpose_b ? "t" : "n";
  for (const std::int64_t stride : {p.lda, p.ldb, p.ldd}) text += " " + std::to_string(stride);
  text += std::string(p.accumulate ? " += " : " = ") + name_of(p.output);
  if (p.bias) text += " bias";
  text += name_of(p.epilogue);
  if (p.sums) text += " sums";
  if (has_own_kernel(p)) text += std::string(", own kernel ") + kOwnVersion;
  return text + " align " + std::to_string(p.alignment);
}

void CudaOps::run(const char* op, const Plan& plan, const Algorithm& algorithm, const Product& product,
                  const Operands& operands) {
  const float alpha = 1.0F, beta = product.accumulate ? 1.0F : 0.0F;
  check_blas(
      cublasLtMatmul(blas_, plan.operation, &alpha, operands.a, plan.a, operands.b, plan.b, &beta, operands.d, plan.d,
                     operands.d, plan.d, &algorithm, blas_workspace_.get(), blas_workspace_bytes_, stream_),
      op);
}

/// Whether one is faster than the other: medians of calls in turns.
bool CudaOps::is_faster(const std::function<void()>& one, const std::function<void()>& other) {
  std::vector<double> times[2];
  for (int round = 0; round <= kRounds; ++round)
    for (const bool second : {false, true}) {
      const double ms = time_ms([&] {
        for (int i = 0; i < kCalls; ++i) (second ? other : one)();
      });
      if (round > 0) times[second ? 1 : 0].push_back(ms);
    }
  for (std::vector<double>& of : times) std::sort(of.begin(), of.end());
  return times[0][kRounds / 2] < times[1][kRounds / 2];
}

/// The fastest on these operands. What d holds is kept where it is added to.
Algorithm CudaOps::fastest(const char* op, const Plan& plan, const Product& product, const Operands& operands,
                           const std::vector<Algorithm>& candidates) {
  std::vector<std::byte> kept;
  if (product.accumulate) {
    kept.resize(static_cast<std::size_t>(product.ldd * product.n) * size_of(product.output));
    check_cuda(cudaMemcpyAsync(kept.data(), operands.d, kept.size(), cudaMemcpyDeviceToHost, stream_), op);
  }
  const auto time = [&](const Algorithm& algorithm, int calls) {
    return time_ms([&] {
      for (int i = 0; i < calls; ++i) run(op, plan, algorithm, product, operands);
    });
  };
  struct Timed {
    const Algorithm* algorithm;
    double first = 0;
    std::vector<double> rounds;
  };
  std::vector<Timed> timed;
  for (const Algorithm& candidate : candidates) {
    time(candidate, 1);
    timed.push_back({&candidate, time(candidate, kFirstCalls), {}});
  }
  std::sort(timed.begin(), timed.end(), [](const Timed& a, const Timed& b) { return a.first < b.first; });
  timed.resize(std::min<std::size_t>(timed.size(), kBest));
  for (int round = 0; round < kRounds; ++round)
    for (Timed& candidate : timed) candidate.rounds.push_back(time(*candidate.algorithm, kCalls));
  for (Timed& candidate : timed) std::sort(candidate.rounds.begin(), candidate.rounds.end());
  if (product.accumulate) {
    check_cuda(cudaMemcpyAsync(operands.d, kept.data(), kept.size(), cudaMemcpyHostToDevice, stream_), op);
    check_cuda(cudaStreamSynchronize(stream_), op);
  }
  return *std::min_element(timed.begin(), timed.end(), [](const Timed& a, const Timed& b) {
            return a.rounds[kRounds / 2] < b.rounds[kRounds / 2];
          })->algorithm;
}

bool CudaOps::has_own_kernel(const Product& p) const {
  // Rows of every operand begin at multiples of 16 bytes.
  const bool gated = p.epilogue == ProductEpilogue::swiglu;
  return p.epilogue != ProductEpilogue::none && real_ == DType::bf16 && has_sm90() && p.alignment >= 16 &&
         p.k % 8 == 0 && p.m % (gated ? 16 : 8) == 0;
}

void CudaOps::run_own_kernel([[maybe_unused]] const Product& p, [[maybe_unused]] const Operands& operands) {
#ifdef SINKSCOPE_SM90A
  using cuda::sm90::Activation;
  const bool gated = !in_library(p.epilogue);
  const Activation activation = gated ? Activation::swiglu : Activation::gelu;
  if (p.epilogue == ProductEpilogue::gelu || p.epilogue == ProductEpilogue::swiglu)
    cuda::sm90::multiply(stream_, properties_.multiProcessorCount,
                         cuda::sm90::ActivatedProduct{.activation = activation, .M = p.n, .F = gated ? p.m / 2 : p.m,
                                                      .K = p.k, .x = operands.b, .weight = operands.a,
                                                      .bias = operands.bias, .z = operands.aux, .out = operands.d});
  else
    cuda::sm90::multiply(stream_, properties_.multiProcessorCount,
                         cuda::sm90::ActivatedGradient{.activation = activation, .M = p.n, .F = p.m, .K = p.k,
                                                       .dout = operands.b, .weight = operands.a, .z = operands.aux,
                                                       .dz = operands.d, .sums = operands.sums});
#endif
}

/// Describes a product to cuBLASLt, in `made`. Up to `most` algorithms that it proposes for it, its first guess first.
std::vector<Algorithm> CudaOps::propose(Plan& made, const Product& p, const Operands& operands, int most) {
  const bool real = p.operands == ProductOperands::real;
  const cudaDataType_t in_a = real ? data_type(real_) : CUDA_R_8F_E4M3;
  const cudaDataType_t in_b = p.operands == ProductOperands::e4m3_e5m2 ? CUDA_R_8F_E5M2 : in_a,
                       out = data_type(p.output);
  const auto u = [](std::int64_t x) { return static_cast<std::uint64_t>(x); };
  check_blas(cublasLtMatmulDescCreate(&made.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  set_attribute(made.operation, CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  set_attribute(made.operation, CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set_attribute(made.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(p.epilogue, p.bias));
  if (p.epilogue != ProductEpilogue::none) set_attribute(made.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.ldd);
  made.set_pointers(operands);
  check_blas(
      cublasLtMatrixLayoutCreate(&made.a, in_a, u(p.transpose_a ? p.k : p.m), u(p.transpose_a ? p.m : p.k), p.lda),
      "cublasLtMatrixLayoutCreate");
  check_blas(
      cublasLtMatrixLayoutCreate(&made.b, in_b, u(p.transpose_b ? p.n : p.k), u(p.transpose_b ? p.k : p.n), p.ldb),
      "cublasLtMatrixLayoutCreate");
  check_blas(cublasLtMatrixLayoutCreate(&made.d, out, u(p.m), u(p.n), p.ldd), "cublasLtMatrixLayoutCreate");

  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  const std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, decltype(&cublasLtMatmulPreferenceDestroy)> owner(
      preference, &cublasLtMatmulPreferenceDestroy);
  set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, blas_workspace_bytes_);
  // Reductions over a split k happen in a fixed order, in the workspace; never in place by atomics.
  set_preference(
      preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE));
  for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    set_preference(preference, which, p.alignment);
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<std::size_t>(most));
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(blas_, made.operation, made.a, made.b, made.d, made.d,
                                                               preference, most, results.data(), &found);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) check_blas(status, "cublasLtMatmulAlgoGetHeuristic");
  std::vector<Algorithm> candidates;
  for (const cublasLtMatmulHeuristicResult_t& result : std::span(results.data(), static_cast<std::size_t>(found)))
    if (result.state == CUBLAS_STATUS_SUCCESS) candidates.push_back(result.algo);
  return candidates;
}

/// The plan of a product; null when there is no algorithm for it, or the product has an epilogue and `apart`, given
/// exactly then, is faster.
CudaOps::Plan* CudaOps::plan(const char* op, const Product& p, const Operands& operands, const Apart* apart) {
  if (const auto known = plans_.find(p); known != plans_.end()) return known->second.get();
  auto made = std::make_unique<Plan>();
  const double flops = 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  const bool timed = choose_ && flops >= worth_timing_;
  std::vector<Algorithm> candidates;
  if (in_library(p.epilogue)) candidates = propose(*made, p, operands, timed ? kCandidates : 1);
  const bool own = timed && apart != nullptr && has_own_kernel(p);
  if (candidates.empty() && !own) {
    plans_[p] = nullptr;
    return nullptr;
  }
  if (!candidates.empty()) made->algorithm = candidates.front();
  if (timed) {
    const std::string product = product_name(p);
    if (apart != nullptr) apart->all();  // has a plan of its own, which may not be chosen while this one is
    const std::string word = choose_(product, [&] {
      std::string best;
      std::function<void()> run_best;
      if (!candidates.empty()) {
        const Algorithm algorithm = fastest(op, *made, p, operands, candidates);
        best = to_word(algorithm);
        run_best = [&, algorithm] {
          run(op, *made, algorithm, p, operands);
          if (apart != nullptr) apart->after_product();
        };
      }
      const auto better = [&](const char* other, const std::function<void()>& run_other) {
        if (!best.empty() && !is_faster(run_other, run_best)) return;
        best = other;
        run_best = run_other;
      };
      if (own) better(kOwnKernel, [&] { run_own_kernel(p, operands); });
      if (apart != nullptr) better(kApart, apart->all);
      return best;
    });
    if (apart != nullptr && word == kApart) {
      plans_[p] = nullptr;
      return nullptr;
    }
    if (own && word == kOwnKernel) {
      made->own_kernel = true;
      return (plans_[p] = std::move(made)).get();
    }
    cublasLtMatmulHeuristicResult_t result{};
    if (!in_library(p.epilogue) || !from_word(word, made->algorithm) ||
        cublasLtMatmulAlgoCheck(blas_, made->operation, made->a, made->b, made->d, made->d, &made->algorithm,
                                &result) != CUBLAS_STATUS_SUCCESS ||
        result.workspaceSize > blas_workspace_bytes_)
      throw std::runtime_error(std::string(op) + ": the algorithm on record for the product \"" + product + "\", " +
                               word + ", is none that it can be done with; delete the record, and it is timed anew");
  }
  return (plans_[p] = std::move(made)).get();
}

void CudaOps::Plan::set_pointers(const Operands& operands) {
  if (operands.bias != nullptr) set_attribute(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias);
  if (operands.aux != nullptr) set_attribute(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, operands.aux);
  if (operands.a_scale != nullptr) set_attribute(operation, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, operands.a_scale);
  if (operands.b_scale != nullptr) set_attribute(operation, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, operands.b_scale);
}

CudaOps::By CudaOps::multiply_by_plan(const char* op, const Product& shape, const Operands& operands,
                                      const Apart* apart) {
  Product product = shape;
  product.bias = operands.bias != nullptr;
  product.alignment = common_alignment({operands.a, operands.b, operands.d, operands.bias, operands.aux});
  Plan* found = plan(op, product, operands, apart);
  if (found == nullptr) return By::nobody;
  if (found->own_kernel) {
    run_own_kernel(product, operands);
    return By::own_kernel;
  }
  found->set_pointers(operands);
  run(op, *found, found->algorithm, product, operands);
  return By::library;
}

CudaOps::By CudaOps::try_multiply(const char* op, const Product& product, const Operands& operands,
                                  const Apart& apart) {
  return multiply_by_plan(op, product, operands, &apart);
}

void CudaOps::multiply(const char* op, const Product& product, const Operands& operands) {
  if (multiply_by_plan(op, product, operands, nullptr) != By::nobody) return;
  throw std::runtime_error(std::string(op) + ": cuBLASLt has no algorithm for a product of " +
                           std::to_string(product.m) + " x " + std::to_string(product.n) + " x " +
                           std::to_string(product.k));
}

}  // namespace sinkscope
