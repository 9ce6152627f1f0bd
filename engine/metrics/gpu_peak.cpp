#include "engine/metrics/gpu_peak.h"

#include <algorithm>
#include <array>

namespace sinkscope {
namespace {

struct Entry {
  std::string_view name;
  double teraflops = 0;
};

// Where a datasheet gives the rate "with sparsity", half of it.
constexpr std::array kTable = {
    // NVIDIA A100 Tensor Core GPU datasheet, 2021: 312, all forms.
    Entry{"NVIDIA A100-SXM4-40GB", 312}, Entry{"NVIDIA A100-SXM4-80GB", 312},
    Entry{"NVIDIA A100-PCIE-40GB", 312}, Entry{"NVIDIA A100 80GB PCIe", 312},
    // NVIDIA H100 Tensor Core GPU datasheet: SXM 1979 with sparsity, 989.4 in the H100 architecture white
    // paper; PCIe 1513 with sparsity; NVL 1671 with sparsity.
    Entry{"NVIDIA H100 80GB HBM3", 989.4}, Entry{"NVIDIA H100 PCIe", 756}, Entry{"NVIDIA H100 NVL", 835.5},
    // NVIDIA H200 Tensor Core GPU datasheet: SXM 1979 with sparsity, the H100's chip; NVL 1671 with sparsity.
    Entry{"NVIDIA H200", 989.4}, Entry{"NVIDIA H200 NVL", 835.5},
    // NVIDIA Blackwell datasheet, HGX B200: 36 PFLOP/s of 8 GPUs with sparsity.
    Entry{"NVIDIA B200", 2250},
    // Datasheets of the A10, A30 and A40; of the L4 (242 with sparsity), the L40 and the L40S (dense rates given).
    Entry{"NVIDIA A10", 125}, Entry{"NVIDIA A30", 165}, Entry{"NVIDIA A40", 149.7}, Entry{"NVIDIA L4", 121},
    Entry{"NVIDIA L40", 181.05}, Entry{"NVIDIA L40S", 362.05},
    // NVIDIA Ampere GA102 and Ada GPU architecture white papers, bf16 with fp32 accumulation.
    Entry{"NVIDIA GeForce RTX 3090", 71}, Entry{"NVIDIA GeForce RTX 4090", 165.2},
};

}  // namespace

std::optional<double> datasheet_bf16_flops(std::string_view name) {
  const auto found = std::find_if(kTable.begin(), kTable.end(), [&](const Entry& entry) { return entry.name == name; });
  if (found == kTable.end()) return std::nullopt;
  return found->teraflops * 1e12;
}

}  // namespace sinkscope
