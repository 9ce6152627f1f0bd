#include "engine/comm/world.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <random>
#include <sstream>
#include <stdexcept>

#include "engine/comm/backends.h"
#include "kernels/ops.h"

namespace sinkscope {
namespace {

using Clock = std::chrono::steady_clock;

// Kinds of messages before the Watchdog takes over.
constexpr char kHello = 'h', kText = 't';

std::string lines_of(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += word + "\n";
  return text;
}

std::vector<std::string> words_of(const std::string& lines) {
  std::istringstream stream(lines);
  std::vector<std::string> words;
  for (std::string line; std::getline(stream, line);) words.push_back(line);
  return words;
}

/// Texts of any bytes one behind the other, each after its length.
std::string join(const std::vector<std::string>& texts) {
  std::string joined;
  for (const std::string& text : texts) joined += std::to_string(text.size()) + ":" + text;
  return joined;
}

std::vector<std::string> split(const std::string& joined) {
  std::vector<std::string> texts;
  for (std::size_t at = 0; at < joined.size();) {
    const std::size_t colon = joined.find(':', at);
    const std::size_t size = std::stoul(joined.substr(at, colon - at));
    texts.push_back(joined.substr(colon + 1, size));
    at = colon + 1 + size;
  }
  return texts;
}

std::optional<int> whole_number(const std::string& text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::string random_token() {
  std::random_device device;
  return std::to_string(device()) + "-" + std::to_string(device());
}

}  // namespace

World::World() : places_{{host_name(), getpid()}} {}

World::World(const Launch& launch, const RankLimits& limits)
    : rank_(launch.rank), size_(launch.size), local_rank_(launch.local_rank), limits_(limits) {
  if (size_ == 1) {
    places_ = {{host_name(), getpid()}};
    return;
  }
  if (launch.mpi && !mpi_description().empty()) {
    const MpiPlace place = start_mpi(limits.start);
    mpi_ = true;
    if (size_ != 0 && (place.rank != rank_ || place.size != size_))
      throw std::runtime_error("launch: this process is rank " + std::to_string(rank_) + " of " +
                               std::to_string(size_) + " by " + launch.launcher + "'s variables and rank " +
                               std::to_string(place.rank) + " of " + std::to_string(place.size) +
                               " by MPI, which was started by another MPI than " + mpi_description());
    rank_ = place.rank;
    size_ = place.size;
    local_rank_ = place.local_rank;
  }
  if (mpi_) {
    std::optional<Listener> listener;
    std::vector<std::string> words;  // port, token, host, its addresses
    if (leads()) {
      listener.emplace("", 0);
      words = {std::to_string(listener->port()), random_token(), host_name()};
      for (const std::string& address : host_addresses()) words.push_back(address);
    }
    words = words_of(mpi_text_of_leader(lines_of(words)));
    std::vector<std::string> addresses(words.begin() + 3, words.end());
    if (words[2] == host_name()) std::reverse(addresses.begin(), addresses.end());  // the loopback first
    meet_at(addresses, listener ? &*listener : nullptr, std::stoi(words[0]), words[1]);
    return;
  }
  if (size_ == 0)
    throw std::runtime_error(
        "launch: PMIX_RANK is set, and this build has no MPI to ask for the number of ranks; install "
        "libopenmpi-dev and build again, or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT");
  if (launch.master_address.empty() && rank_ > 0) throw ToldElsewhere();  // it is the same on all
  if (launch.master_address.empty())
    throw std::runtime_error(
        "launch: " + std::to_string(size_) + " ranks by " + launch.launcher +
        "'s variables have no place to meet; set MASTER_ADDR and MASTER_PORT to the host of rank 0 and a free port "
        "there" +
        (mpi_description().empty() ? ", or build with MPI" : ", or start them under PMIx"));
  std::optional<Listener> listener;
  if (leads()) {
    std::string address = launch.master_address.find(':') != std::string::npos ? "::" : "";  // any, of its kind
    if (is_loopback(launch.master_address)) address = launch.master_address;
    listener.emplace(address, launch.master_port);
  }
  meet_at({launch.master_address}, listener ? &*listener : nullptr, launch.master_port, "sinkscope");
}

Deadline World::start_deadline() const {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(limits_.start));
}

void World::meet_at(const std::vector<std::string>& addresses, Listener* listener, int port, const std::string& token) {
  const Deadline deadline = start_deadline();
  const std::string hello =
      lines_of({token, std::to_string(rank_), std::to_string(size_), host_name(), std::to_string(getpid())});
  if (listener == nullptr) {
    std::string why;
    std::optional<Socket> socket = connect_to(addresses, port, deadline, why);
    if (!socket || !socket->send({kHello, hello}, deadline))
      throw std::runtime_error(name() + " cannot reach rank 0 at " + addresses.front() + ", port " +
                               std::to_string(port) + ": " + (socket ? "the connection was closed" : why));
    sockets_.push_back(std::move(*socket));
  } else {
    sockets_.resize(static_cast<std::size_t>(size_ - 1));
    for (int met = 1; met < size_;) {
      std::optional<Socket> socket = listener->accept(deadline);
      if (!socket) {
        std::string missing;
        for (int rank = 1; rank < size_; ++rank)
          if (!sockets_[static_cast<std::size_t>(rank - 1)])
            missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
        throw std::runtime_error("of " + std::to_string(size_) + " ranks these have not come to rank 0 on " +
                                 host_name() + ", port " + std::to_string(port) + ": " + missing);
      }
      // What is no rank of this run is sent away.
      Socket::Message message;
      const Deadline soon = std::min(deadline, Clock::now() + std::chrono::seconds(5));
      if (socket->receive(message, soon) != Socket::Received::message || message.kind != kHello) continue;
      const std::vector<std::string> words = words_of(message.text);
      if (words.size() != 5 || words[0] != token) continue;
      const std::optional<int> rank = whole_number(words[1]);
      if (!rank || *rank < 1) continue;
      if (words[2] != std::to_string(size_))
        throw std::runtime_error("rank " + words[1] + " on " + words[3] + " is one of " + words[2] +
                                 " ranks, rank 0 on " + host_name() + " one of " + std::to_string(size_));
      if (*rank >= size_) continue;
      Socket& place = sockets_[static_cast<std::size_t>(*rank - 1)];
      if (place) throw std::runtime_error("two processes are rank " + words[1] + ", one of them on " + words[3]);
      place = std::move(*socket);
      ++met;
    }
  }
  for (const std::string& text : exchange(lines_of({host_name(), std::to_string(getpid())}))) {
    const std::vector<std::string> words = words_of(text);
    places_.push_back({words[0], std::stoll(words[1])});
  }
}

World::~World() {
  const bool in_order = in_order_ || std::uncaught_exceptions() == exceptions_;
  try {
    if (in_order && mpi_) finish_mpi();
  } catch (const std::exception&) {  // at its end there is nothing left to do about it
  }
  if (!watchdog_) return;
  if (in_order)
    watchdog_->leave();
  else
    watchdog_->fail();
}

std::string World::name() const {
  return "rank " + std::to_string(rank_) + " on " +
         (places_.empty() ? host_name() : places_[static_cast<std::size_t>(rank_)].host);
}

bool World::on_one_host() const {
  return std::ranges::all_of(places_, [this](const RankPlace& place) { return place.host == places_.front().host; });
}

std::vector<std::string> World::exchange(const std::string& mine) {
  if (size_ == 1) return {mine};
  const Deadline deadline = start_deadline();
  const auto expect = [&](Socket& socket, int rank) {
    Socket::Message message;
    const Socket::Received received = socket.receive(message, deadline);
    if (received == Socket::Received::message && message.kind == kText) return message.text;
    const std::string place = places_.empty() ? "" : " on " + places_[static_cast<std::size_t>(rank)].host;
    throw std::runtime_error("rank " + std::to_string(rank) + place +
                             (received == Socket::Received::late ? " does not come to the start of the run"
                                                                 : " is gone before the run has begun"));
  };
  if (!leads()) {
    sockets_.front().send({kText, mine}, deadline);
    return split(expect(sockets_.front(), 0));
  }
  std::vector<std::string> texts = {mine};
  for (int rank = 1; rank < size_; ++rank) texts.push_back(expect(sockets_[static_cast<std::size_t>(rank - 1)], rank));
  const std::string joined = join(texts);
  for (Socket& socket : sockets_) socket.send({kText, joined}, deadline);
  return texts;
}

void World::agree(const std::exception_ptr& error) {
  if (size_ == 1) {
    if (error) std::rethrow_exception(error);
    return;
  }
  const std::vector<std::string> failed = exchange(error ? "1" : "");
  const auto first = std::find(failed.begin(), failed.end(), "1");
  if (first == failed.end()) return;
  end_in_order();
  if (first - failed.begin() == rank_) std::rethrow_exception(error);
  throw ToldElsewhere();
}

void World::expect_equal(const std::string& what, const std::string& value, const Difference& difference) {
  const std::vector<std::string> values = exchange(value);
  for (std::size_t rank = 1; rank < values.size(); ++rank) {
    if (values[rank] == values[0]) continue;
    end_in_order();
    if (!leads()) throw ToldElsewhere();
    throw std::runtime_error(
        "rank " + std::to_string(rank) + " on " + places_[rank].host + " has another " + what + " than rank 0 on " +
        places_[0].host + (difference ? ": " + difference(values[0], values[rank]) : "") + "; all ranks need the same");
  }
}

std::unique_ptr<Communicator> World::connect(Ops& ops, const CarriedBytes& carried) {
  if (size_ == 1) return std::make_unique<OneProcess>();
  const bool on_gpu = ops.device_name() == "cuda";
  const std::string id = together([&]() -> std::string {
    if (on_gpu && nccl_description().empty())
      throw std::runtime_error("this build has no NCCL, which " + std::to_string(size_) +
                               " ranks on GPUs need; install NCCL (libnccl-dev) and build again");
    if (!on_gpu && !mpi_)
      throw std::runtime_error(
          std::to_string(size_) + " ranks on the CPU need MPI, " +
          (mpi_description().empty() ? "which this build does not have; install libopenmpi-dev and build again"
                                     : "and were not started by it; use mpirun, or srun under PMIx"));
    return on_gpu && leads() ? make_nccl_id() : std::string();
  });
  const std::string leaders_id = exchange(id).front();
  watchdog_ = std::make_unique<Watchdog>(
      Watchdog::Options{.rank = rank_, .places = places_, .usual = limits_.usual, .start = limits_.start},
      std::move(sockets_));
  return on_gpu ? make_nccl_communicator(*this, ops, leaders_id, carried) : make_mpi_communicator(*this);
}

void World::set_step(std::int64_t step) {
  if (watchdog_) watchdog_->set_step(step);
}

void World::set_limit(double seconds) {
  if (watchdog_) watchdog_->set_limit(seconds);
}

}  // namespace sinkscope
