#include <utility>

#include "engine/metrics/sinks.h"

namespace sinkscope {
namespace {

class Tee final : public MetricSink {
 public:
  explicit Tee(std::vector<std::unique_ptr<MetricSink>> sinks) : sinks_(std::move(sinks)) {}

  void write(const StepRecord& record) override { write_all(record); }
  void write(const ProbeRecord& record) override { write_all(record); }
  void write(const EventRecord& record) override { write_all(record); }
  void flush(bool durable) override {
    for (const auto& sink : sinks_) sink->flush(durable);
  }

 private:
  template <class Record>
  void write_all(const Record& record) {
    for (const auto& sink : sinks_) sink->write(record);
  }

  std::vector<std::unique_ptr<MetricSink>> sinks_;
};

}  // namespace

std::unique_ptr<MetricSink> make_tee(std::vector<std::unique_ptr<MetricSink>> sinks) {
  return std::make_unique<Tee>(std::move(sinks));
}

}  // namespace sinkscope
