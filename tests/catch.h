// The one include for Catch2, whichever major version is installed.
#pragma once

#ifdef SINKSCOPE_CATCH2_V2
#include <catch2/catch.hpp>
#else
#include <catch2/catch_all.hpp>
using Catch::Approx;
#endif
