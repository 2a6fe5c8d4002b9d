#include "server/http/http.h"

#include <arpa/inet.h>
#include <httplib.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/http/metrics.h"
#include "server/http/status_page.h"
#include "storage/base/unique_fd.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

DaemonSnapshot MakeSnapshot() {
  DaemonSnapshot snapshot;
  snapshot.daemon_version = "1.2.3";
  snapshot.uptime_seconds = 61;
  snapshot.ready = true;
  snapshot.nvme_io = "io_uring, direct I/O";
  snapshot.hbm_note = "no CUDA";
  snapshot.dram_budget_bytes = 1000;
  TableSnapshot table;
  table.name = "demo";
  table.version = VersionId{4};
  table.lookups = 9;
  table.failed_lookups = 1;
  table.skipped_prefetch_rows = 7;
  LatencyHistogram histogram;
  histogram.Observe(std::chrono::microseconds(1));
  table.lookup_seconds = histogram.Snapshot();
  for (const int id : {1, 14}) {
    LayerSnapshot layer;
    layer.layer = LayerId{id};
    layer.failed_rows = 1;
    layer.tiers[1].usage = {true, "huge pages", 10, 2640, 4096};
    layer.tiers[1].hits = 6;
    layer.tiers[1].placed_rows = 5;
    layer.tiers[1].checked_rows = 4;
    layer.tiers[1].mismatched_rows = 3;
    layer.tiers[1].times_forgotten = 2;
    layer.failed_pages = 11;
    layer.retried_pages = 12;
    layer.tiers[2].usage = {true, "", 100, 26400, 30000};
    layer.tiers[2].hits = 3;
    table.layers.push_back(layer);
  }
  snapshot.tables.push_back(table);
  return snapshot;
}

class Http : public ::testing::Test {
 protected:
  Http() {
    auto server = HttpServer::Start("127.0.0.1:0", [this] {
      DaemonSnapshot snapshot = MakeSnapshot();
      snapshot.ready = ready_;
      return snapshot;
    });
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  httplib::Result Get(const std::string& path) {
    return httplib::Client("127.0.0.1", server_->port()).Get(path);
  }

  UniqueFd Connect() {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_port = htons(static_cast<uint16_t>(server_->port()));
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0);
    return fd;
  }

  // Sends raw bytes and reads until the server closes.
  std::string Raw(const std::string& request) {
    const UniqueFd fd = Connect();
    ::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL);
    ::shutdown(fd.get(), SHUT_WR);
    std::string answer;
    char chunk[4096];
    for (ssize_t got; (got = ::recv(fd.get(), chunk, sizeof(chunk), 0)) > 0;) {
      answer.append(chunk, static_cast<size_t>(got));
    }
    return answer;
  }

  std::atomic<bool> ready_{true};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(Http, HealthzIsOkEvenWhenNotReady) {
  ready_ = false;
  const auto answer = Get("/healthz");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(answer->body, "ok\n");
}

TEST_F(Http, ReadyzFollowsTheSnapshot) {
  EXPECT_EQ(Get("/readyz")->status, 200);
  ready_ = false;
  EXPECT_EQ(Get("/readyz")->status, 503);
  ready_ = true;
  EXPECT_EQ(Get("/readyz")->status, 200);
}

TEST_F(Http, MetricsAreTheSnapshots) {
  const auto answer = Get("/metrics");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(answer->get_header_value("Content-Type"), kMetricsContentType);
  EXPECT_EQ(answer->body, MetricsText(MakeSnapshot()));
}

TEST_F(Http, StatsJson) {
  const auto answer = Get("/stats.json");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->get_header_value("Content-Type"), "application/json");
  EXPECT_EQ(answer->body, StatsJson(MakeSnapshot()));
}

TEST_F(Http, StatusPageLoadsNothingFromElsewhere) {
  const auto answer = Get("/");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
  EXPECT_THAT(answer->get_header_value("Content-Type"), StartsWith("text/html"));
  EXPECT_EQ(answer->get_header_value("Content-Security-Policy"), kStatusPagePolicy);
  EXPECT_THAT(answer->body, StartsWith("<!DOCTYPE html>"));
  EXPECT_THAT(answer->body, HasSubstr("\"name\":\"demo\""));
  EXPECT_THAT(answer->body, Not(HasSubstr("://")));
  EXPECT_THAT(answer->body, Not(HasSubstr("{{")));
}

TEST_F(Http, OtherPathsAndMethodsAreNotFound) {
  for (const std::string path : {"/nope", "/metrics/", "//", "/..", "/healthz%00"}) {
    const auto answer = Get(path);
    ASSERT_TRUE(answer) << path;
    EXPECT_EQ(answer->status, 404) << path;
    EXPECT_THAT(answer->body, StartsWith("not found")) << path;
  }
  httplib::Client client("127.0.0.1", server_->port());
  EXPECT_EQ(client.Post("/metrics", "x", "text/plain")->status, 404);
  EXPECT_EQ(client.Delete("/")->status, 404);
  const auto head = client.Head("/healthz");
  EXPECT_EQ(head->status, 200);
  EXPECT_EQ(head->body, "");
}

TEST_F(Http, OutlivesBadRequests) {
  const std::vector<std::string> requests = {
      "",
      "\r\n\r\n",
      std::string(100, '\0'),
      "GET\r\n\r\n",
      "GET / HTTP/9.9\r\n\r\n",
      absl::StrCat("GET /", std::string(100000, 'a'), " HTTP/1.1\r\n\r\n"),
      absl::StrCat("GET / HTTP/1.1\r\nX: ", std::string(100000, 'a'), "\r\n\r\n"),
      "POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\nx",
      "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
      "GET / HTTP/1.1\r\nRange: bytes=9999999999999-\r\n\r\n",
  };
  for (const std::string& request : requests) {
    Raw(request);
    const auto answer = Get("/healthz");
    ASSERT_TRUE(answer) << request.substr(0, 60);
    EXPECT_EQ(answer->status, 200);
  }
}

TEST_F(Http, AnswersManyCallersAtOnce) {
  std::atomic<int> good{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([&] {
      for (int j = 0; j < 20; ++j) {
        const auto answer = Get("/metrics");
        if (answer && answer->status == 200) ++good;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(good, 160);
}

TEST_F(Http, SilentCallersAreDroppedForOthers) {
  std::vector<UniqueFd> silent;  // more than there are threads
  for (int i = 0; i < 6; ++i) silent.push_back(Connect());
  httplib::Client client("127.0.0.1", server_->port());
  client.set_read_timeout(60);
  const auto answer = client.Get("/healthz");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
}

TEST_F(Http, StopsAndStopsAgain) {
  const int port = server_->port();
  EXPECT_EQ(Get("/healthz")->status, 200);
  server_->Stop();
  server_->Stop();
  server_.reset();
  EXPECT_FALSE(httplib::Client("127.0.0.1", port).Get("/healthz"));
}

TEST_F(Http, ThePortIsNobodyElses) {
  const std::string address = absl::StrCat("127.0.0.1:", server_->port());
  const auto second = HttpServer::Start(address, MakeSnapshot);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()),
              ::testing::AllOf(HasSubstr(address), HasSubstr("Address already in use")));
  server_->Stop();
  server_.reset();
  const auto third = HttpServer::Start(address, MakeSnapshot);
  EXPECT_TRUE(third.ok()) << third.status();
}

TEST(HttpServer, RefusesWhatIsNoAddress) {
  for (const std::string address : {"", "unix:/tmp/x", "127.0.0.1", "no.such.host.invalid:80"}) {
    const auto server = HttpServer::Start(address, MakeSnapshot);
    ASSERT_FALSE(server.ok()) << address;
    EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument) << address;
    EXPECT_THAT(std::string(server.status().message()), HasSubstr(address));
  }
  // An address of documentation only: no interface has it.
  const auto foreign = HttpServer::Start("192.0.2.1:0", MakeSnapshot);
  ASSERT_FALSE(foreign.ok());
  EXPECT_THAT(std::string(foreign.status().message()),
              HasSubstr("192.0.2.1:0: Cannot assign requested address"));
}

TEST(HttpServer, AThrowingSnapshotIsAnErrorNotTheEnd) {
  auto server = HttpServer::Start("127.0.0.1:0",
                                  []() -> DaemonSnapshot { throw std::runtime_error("planted"); });
  ASSERT_TRUE(server.ok());
  httplib::Client client("127.0.0.1", (*server)->port());
  EXPECT_EQ(client.Get("/metrics")->status, 500);
  EXPECT_EQ(client.Get("/healthz")->status, 200);
}

TEST(StatsJson, SumsLayersIntoTheTable) {
  const auto json = nlohmann::json::parse(StatsJson(MakeSnapshot()));
  EXPECT_EQ(json["daemon_version"], "1.2.3");
  EXPECT_EQ(json["ready"], true);
  EXPECT_EQ(json["hbm_note"], "no CUDA");
  const auto& table = json["tables"][0];
  EXPECT_EQ(table["name"], "demo");
  EXPECT_EQ(table["version"], 4);
  EXPECT_EQ(table["active"], true);
  EXPECT_EQ(table["lookups"], 9);
  EXPECT_EQ(table["failed_lookups"], 1);
  EXPECT_EQ(table["skipped_prefetch_rows"], 7);
  EXPECT_DOUBLE_EQ(table["lookup_p99_seconds"].get<double>(), 0.99e-6);
  EXPECT_EQ(table["failed_rows"], 2);
  EXPECT_EQ(table["tiers"]["dram"]["hits"], 12);
  EXPECT_EQ(table["tiers"]["dram"]["rows"], 20);
  EXPECT_EQ(table["tiers"]["dram"]["capacity_bytes"], 8192);
  EXPECT_EQ(table["tiers"]["dram"]["note"], "huge pages");
  EXPECT_EQ(table["tiers"]["dram"]["placed_rows"], 10);
  EXPECT_EQ(table["tiers"]["dram"]["checked_rows"], 8);
  EXPECT_EQ(table["tiers"]["dram"]["mismatched_rows"], 6);
  EXPECT_EQ(table["tiers"]["dram"]["times_forgotten"], 4);
  EXPECT_EQ(table["layers"][0]["failed_pages"], 11);
  EXPECT_EQ(table["layers"][0]["retried_pages"], 12);
  EXPECT_EQ(table["layers"][0]["failed_rows"], 1);
  EXPECT_EQ(table["tiers"]["hbm"]["on"], false);
  EXPECT_EQ(table["tiers"]["nvme"]["bytes"], 52800);
  EXPECT_DOUBLE_EQ(table["tiers"]["dram"]["hit_ratio"], 0.6);
  EXPECT_EQ(table["layers"][1]["layer"], 14);
  EXPECT_EQ(table["layers"][1]["tiers"]["nvme"]["hits"], 3);
}

TEST(StatsJson, HoldsWithoutTables) {
  EXPECT_TRUE(nlohmann::json::parse(StatsJson(DaemonSnapshot()))["tables"].empty());
}

TEST(StatusPage, NamesCannotEndTheScript) {
  DaemonSnapshot snapshot = MakeSnapshot();
  snapshot.tables[0].name = "</script><script>alert(1)//\xff";
  const std::string page = StatusPage(snapshot);
  EXPECT_THAT(page, Not(HasSubstr("alert(1)</script>")));
  EXPECT_THAT(page, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(page, HasSubstr("\\u003c/script>\\u003cscript>alert(1)"));
}

}  // namespace
}  // namespace engram
