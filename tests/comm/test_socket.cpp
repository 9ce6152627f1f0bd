#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "engine/comm/launch.h"
#include "engine/comm/socket.h"
#include "engine/comm/world.h"
#include "tests/catch.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

Deadline in(double seconds) {
  return std::chrono::steady_clock::now() +
         std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds));
}

struct Pair {
  Pair() {
    Listener listener("127.0.0.1", 0);
    std::string why;
    left = connect_to({"127.0.0.1"}, listener.port(), in(5), why).value();
    right = listener.accept(in(5)).value();
  }
  Socket left, right;
};

TEST_CASE("loopback addresses are told from those that others reach") {
  for (const char* address : {"127.0.0.1", "127.8.9.10", "127.1", "::1", "localhost"}) CHECK(is_loopback(address));
  for (const char* address :
       {"0.0.0.0", "::", "192.168.1.2", "example.org", "127.0.0.1.evil.example", "127.evil.example", ""})
    CHECK_FALSE(is_loopback(address));
}

TEST_CASE("what came with the last message goes along when a connection is moved") {
  Pair pair;
  for (const char kind : {'a', 'b', 'c'}) REQUIRE(pair.left.send({kind, "text"}, in(5)));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // until all three are there to be read at once
  Socket::Message message;
  REQUIRE(pair.right.receive(message, in(5)) == Socket::Received::message);
  Socket moved(std::move(pair.right));
  REQUIRE(moved.receive(message, in(1)) == Socket::Received::message);
  CHECK(message.kind == 'b');
  Socket assigned;
  assigned = std::move(moved);
  REQUIRE(assigned.receive(message, in(1)) == Socket::Received::message);
  CHECK(message.kind == 'c');
}

TEST_CASE("messages arrive whole, in order, of any bytes") {
  Pair pair;
  const std::string large(std::size_t{300000}, '\n');
  for (const std::string& text : {std::string(), std::string("a\0b", 3), std::string("second")})
    REQUIRE(pair.left.send({'x', text}, in(5)));
  for (const std::string& text : {std::string(), std::string("a\0b", 3), std::string("second")}) {
    Socket::Message message;
    REQUIRE(pair.right.receive(message, in(5)) == Socket::Received::message);
    CHECK(message.kind == 'x');
    CHECK(message.text == text);
  }
  REQUIRE(pair.right.send({'y', large}, in(5)));
  Socket::Message message;
  REQUIRE(pair.left.receive(message, in(5)) == Socket::Received::message);
  CHECK(message.text == large);
}

TEST_CASE("what does not come is late, and who has closed is gone") {
  Pair pair;
  Socket::Message message;
  CHECK(pair.left.receive(message, in(0.05)) == Socket::Received::late);
  REQUIRE(pair.right.send({'z', "last words"}, in(5)));
  pair.right.close();
  CHECK(pair.left.receive(message, in(5)) == Socket::Received::message);
  CHECK(pair.left.receive(message, in(5)) == Socket::Received::gone);
  std::string why;
  Listener listener("127.0.0.1", 0);
  CHECK_FALSE(listener.accept(in(0.05)).has_value());
}

TEST_CASE("a port that is taken, and one where nobody listens, are told") {
  int port = 0;
  {
    const Listener listener("127.0.0.1", 0);
    port = listener.port();
    CHECK(test::message_of([&] { Listener again("127.0.0.1", port); }) ==
          "rank 0 cannot listen at 127.0.0.1, port " + std::to_string(port) + ": Address already in use");
  }
  std::string why;
  CHECK_FALSE(connect_to({"127.0.0.1"}, port, in(0.1), why).has_value());
  CHECK(why == "Connection refused");
}

TEST_CASE("who greets rank 0 as no rank of the run is sent away, and the ranks meet") {
  const int port = Listener("127.0.0.1", 0).port();
  Launch launch{.launcher = "torchrun", .size = 2, .master_address = "127.0.0.1", .master_port = port};
  std::string name;
  std::jthread leader([&, launch] { name = World(launch, {.start = 20}).name(); });
  for (const char* rank : {"99999999999", "abc", "", "-1", "0", "2", "7", "1x"}) {
    std::string why;
    std::optional<Socket> stranger = connect_to({"127.0.0.1"}, port, in(10), why);
    INFO(rank << why);
    REQUIRE(stranger);
    REQUIRE(stranger->send({'h', "sinkscope\n" + std::string(rank) + "\n2\nhost\n5\n"}, in(5)));
    Socket::Message message;
    CHECK(stranger->receive(message, in(5)) == Socket::Received::gone);
  }
  launch.rank = launch.local_rank = 1;
  const World rank(launch, {.start = 20});
  leader.join();
  CHECK(rank.size() == 2);
  CHECK(name == "rank 0 on " + host_name());
}

}  // namespace
}  // namespace sinkscope
