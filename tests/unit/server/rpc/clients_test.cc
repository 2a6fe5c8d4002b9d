#include "server/rpc/clients.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

TEST(ClientsTest, AConnectionIsAClientUntilItGoes) {
  Clients clients;
  const ClientId first = clients.Add(7, 1000);
  const ClientId second = clients.Add(8, 1000);
  EXPECT_EQ(clients.Of("fd:7"), first);
  EXPECT_EQ(clients.Of("fd:8"), second);
  EXPECT_NE(first, second);
  const ClientId later = clients.Add(7, 1000);
  EXPECT_EQ(clients.Of("fd:7"), later);
  clients.Remove(7, first);  // the number is another's by now
  EXPECT_EQ(clients.Of("fd:7"), later);
  clients.Remove(7, later);
  EXPECT_NE(clients.Of("fd:7"), later);
  EXPECT_EQ(clients.connections(), 1u);
}

TEST(ClientsTest, OnTcpAnAddressIsAClient) {
  const Clients clients;
  EXPECT_EQ(clients.Of("ipv4:10.0.0.1:4000"), clients.Of("ipv4:10.0.0.1:4001"));
  EXPECT_NE(clients.Of("ipv4:10.0.0.1:4000"), clients.Of("ipv4:10.0.0.2:4000"));
  EXPECT_EQ(clients.Of("ipv6:[::1]:4000"), clients.Of("ipv6:[::1]:4001"));
  EXPECT_NE(clients.Of("ipv6:[::1]:4000"), clients.Of("ipv6:[::2]:4000"));
}

TEST(ClientsTest, OnlyUnixSocketsAreLocal) {
  EXPECT_TRUE(Clients::IsLocal("fd:7"));
  EXPECT_TRUE(Clients::IsLocal("unix:"));
  EXPECT_FALSE(Clients::IsLocal("ipv4:127.0.0.1:4000"));
  EXPECT_FALSE(Clients::IsLocal("ipv6:[::1]:4000"));
  EXPECT_FALSE(Clients::IsLocal(""));
}

TEST(ClientsTest, WhoCannotBeNamedIsOneClient) {
  const Clients clients;
  for (const char* peer : {"", "unix:", "unknown", "fd:", "fd:x", "fd:99"}) {
    EXPECT_EQ(clients.Of(peer), ClientId{}) << peer;
  }
}

}  // namespace
}  // namespace engram
